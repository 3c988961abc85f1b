"""The worker: claims a trial, trains it, tells its end, until none is left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from ampflow.errors import AmpflowError, StorageError
from ampflow.tuning.claims import Claim, Claims, rest_after
from ampflow.tuning.gpu_time import GpuTime
from ampflow.tuning.leases import GRACE, LeaseLost, Leases
from ampflow.tuning.limits import MARGIN, Ended, Limits
from ampflow.tuning.patience import Patience
from ampflow.tuning.results import Objective
from ampflow.tuning.sampling import budget
from ampflow.tuning.spec import StudySpec, claims_folder
from ampflow.tuning.storage import explain_storage_errors
from ampflow.tuning.study import prepare_study
from ampflow.tuning.trial import Busy, Stopped, TrialReport, TrialRun

__all__ = ["TrialReport", "TrialsFail", "WorkerSummary", "run_worker"]

_POLL = 0.5  # seconds between two looks at trials that others are working on
_FAILURES = 5
_NOT_THE_TRIALS = (
    *(Busy, Stopped, LeaseLost, UpdateFinishedTrialError),
    *(AmpflowError, OSError, SQLAlchemyError, StorageInternalError),
)
"""What leaves the trial as it is; anything else that a training raises is a failed trial."""

_log = logging.getLogger(__name__)


class TrialsFail(AmpflowError):  # noqa: N818 - the sentence a user reads
    """One trial after the other fails for the same reason."""


@dataclass
class WorkerSummary:
    """What a worker did.

    Parameters
    ----------
    worker
        Its name.
    complete, pruned, failed
        Trials that it ended.
    dropped
        Trials that somebody else took over.
    ended
        Why it ended, see `ampflow.tuning.limits.Ended`.
    seconds
        How long it was at work.
    """

    worker: str
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    dropped: int = 0
    ended: Ended = "done"
    seconds: float = 0.0


def run_worker(
    spec: StudySpec,
    worker: str,
    *,
    stop: Callable[[], bool] | None = None,
    deadline: float | None = None,
    job_end: float | None = None,
    margin: float = MARGIN,
    on_trial: Callable[[TrialReport], None] | None = None,
    objective: Objective | None = None,
    wait: bool = False,
    grace: float = GRACE,
) -> WorkerSummary:
    """Work on a study until it has no trial left to claim.

    It trains `tuning.stack` trials at once, each in a thread, with a claim and a lease of its own.
    Any number of workers may do so at once, on any machines that share the study's storage and
    cache folder. A trial whose worker was killed is continued by another, or by the same command
    run again, from its checkpoint: the same trial, told once.

    Parameters
    ----------
    worker
        Its name, as shown in the table of trials.
    stop
        Asked between trials and after every epoch: True leaves the trial, with a checkpoint
        written, for anybody to continue.
    deadline
        Seconds since 1970 by which the work ends: a trial that is not finished then is left,
        with a checkpoint written, for the next run to continue.
    job_end
        Seconds since 1970 at which the job of this process is killed
        (`ampflow.tuning.limits.job_end` knows). The work ends before, likewise.
    margin
        Seconds before `job_end` at which all is written. No epoch is begun that would not be
        over by then, and no trial in the last two margins.
    on_trial
        Called after each trial that this worker ended.
    objective
        How to train; None: potentials on the study's store and split.
    wait
        Stay until all trials have ended, so that those of others who die are continued.
    grace
        Seconds without a sign of life after which the trial of a worker on another machine
        is taken over.

    Raises
    ------
    TrialsFail
        If 5 trials in a row fail for the same reason that is not their hyperparameters.
    StorageError
        If the study's storage or the cache folder cannot be used, and, where that may pass by
        itself, still cannot after 10 minutes. The trial is left to be continued.
    OptionError
        If the sampler cannot search the space.
    """
    over = threading.Event()  # this worker's own reason to stop
    limits = Limits(lambda: over.is_set() or bool(stop and stop()), deadline, job_end, margin)
    train_on = _trainer(spec, objective)
    with explain_storage_errors(spec.location):
        return _Loop(spec, worker, train_on, limits, grace).run(on_trial, wait, over)


def _trainer(spec: StudySpec, objective: Objective | None) -> Callable[[Path], Objective]:
    if objective is not None:
        return lambda store: objective

    @cache
    def potentials() -> Callable[[Path], Objective]:
        from ampflow.tuning.objective import make_potentials  # imports what is compiled

        return make_potentials(spec)

    lock = threading.Lock()

    def train_on(store: Path) -> Objective:
        with lock:
            return potentials()(store)

    return train_on


class _Loop:
    def __init__(
        self,
        spec: StudySpec,
        worker: str,
        objective: Callable[[Path], Objective],
        limits: Limits,
        grace: float,
    ) -> None:
        self._spec, self._worker, self._objective, self._limits = spec, worker, objective, limits
        self._study = prepare_study(spec)
        folder = claims_folder(spec.cache, spec.name)
        leases = Leases(folder, worker, grace)
        self._claims = Claims(self._study, leases, budget(spec.tuning))
        hours = spec.tuning.gpu_hours
        self._gpu = GpuTime(self._study, leases, folder, None if hours is None else 3600 * hours)
        self._folders = Leases(folder.with_name("trials"), worker, grace)
        self._stores = Leases(folder.with_name("stores"), worker, grace)
        self._lock = threading.Lock()
        self._failures: list[str] = []  # reasons, one after the other
        self._busy: set[int] = set()  # trials whose hyperparameters somebody else is training
        self._summary = WorkerSummary(worker)

    def run(
        self, on_trial: Callable[[TrialReport], None] | None, wait: bool, over: threading.Event
    ) -> WorkerSummary:
        start = time.monotonic()
        try:
            if self._spec.tuning.stack == 1:
                self._work_on(on_trial, wait)
            else:
                self._work_together(on_trial, wait, over)
        finally:
            self._summary.seconds = time.monotonic() - start
        return self._summary

    def _work_together(
        self, on_trial: Callable[[TrialReport], None] | None, stay: bool, over: threading.Event
    ) -> None:
        """Work in as many threads as trials are trained at once; one that fails ends them all."""
        with ThreadPoolExecutor(self._spec.tuning.stack, "trial") as threads:
            futures = [
                threads.submit(copy_context().run, self._work_on, on_trial, stay)
                for _ in range(self._spec.tuning.stack)
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # all are done, or one failed, or Ctrl-C, which this thread alone hears of
                over.set()
        for future in futures:
            future.result()

    def _work_on(self, on_trial: Callable[[TrialReport], None] | None, wait: bool) -> None:
        patience = Patience()
        goes_on = True
        while goes_on:
            try:
                with explain_storage_errors(self._spec.location):
                    goes_on = self._turn(on_trial, wait)
            except StorageError as error:
                patience.wait(error)
            else:
                patience.forget()

    def _turn(self, on_trial: Callable[[TrialReport], None] | None, wait: bool) -> bool:
        """Work on a trial, or wait for one; False if there is nothing left to do."""
        if self._is_over():
            return False
        start = time.monotonic()
        claim = self._claims.next(self._busy)
        if claim is not None:
            report = self._work(claim)
            if report is not None and on_trial is not None:
                with self._lock:
                    on_trial(report)
        elif self._busy or (wait and self._claims.unfinished()):
            self._busy.clear()
            time.sleep(rest_after(start, _POLL))
        else:
            self._claims.tidy()
            self._gpu.tidy()
            return False
        return True

    def _is_over(self) -> bool:
        if self._summary.ended == "done":
            self._summary.ended = self._limits.before_trial() or "done"
        if self._summary.ended == "done" and self._gpu.is_used_up():
            self._summary.ended = "gpu hours"
        return self._summary.ended != "done"

    def _work(self, claim: Claim) -> TrialReport | None:
        """Work on a trial and let go of it, whatever happens."""
        try:
            report = self._end(claim)
        except (LeaseLost, UpdateFinishedTrialError):
            self._drop(claim)
            return None
        except Busy:
            claim.lease.release()
            self._busy.add(claim.number)
            return None
        except Stopped as stopped:
            claim.lease.release()
            self._summary.ended = stopped.why
            return None
        except BaseException as error:  # left to be continued: a lost database, Ctrl-C
            if isinstance(error, _NOT_THE_TRIALS) and claim.lease.is_lost():
                self._drop(claim)  # nobody's loss: somebody else has it
                return None
            claim.lease.release()
            raise
        claim.lease.finish()
        self._gpu.forget(claim.lease.key)
        self._count(report)
        return report

    def _drop(self, claim: Claim) -> None:
        _log.warning("trial %d was taken over by another worker, dropped", claim.number)
        with self._lock:
            self._summary.dropped += 1

    def _end(self, claim: Claim) -> TrialReport:
        run = TrialRun(
            self._spec, self._study, claim, self._worker,
            self._objective, self._folders, self._stores, self._limits, self._gpu,
        )  # fmt: skip
        try:
            report = run.run()
        except _NOT_THE_TRIALS:
            raise
        except Exception as error:
            _log.exception("trial %d failed", claim.number)
            reason = f"{type(error).__name__}: {error}"
            self._failures.append(reason)
            return run.fail(reason)
        self._failures.clear()
        return report

    def _count(self, report: TrialReport) -> None:
        _log.info("%s: trial %d %s", self._worker, report.number, report.state)
        with self._lock:
            setattr(self._summary, report.state, getattr(self._summary, report.state) + 1)
        last = self._failures[-_FAILURES:]
        if len(last) == _FAILURES and len(set(last)) == 1:
            raise TrialsFail(
                f"{_FAILURES} trials in a row failed: {last[0]}",
                "mend that and run again; failed trials count, so raise tuning.trials",
            )
