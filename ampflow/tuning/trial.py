"""One trial, from its hyperparameters to its end, which is told once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from ampflow.experiment import Fingerprints, Training
from ampflow.tuning.claims import Claim
from ampflow.tuning.draft import Draft
from ampflow.tuning.gpu_time import GpuTime, Meter
from ampflow.tuning.leases import Lease, Leases, keep_alive
from ampflow.tuning.limits import Ended, Limits
from ampflow.tuning.replay import SEEN, as_seen, frozen, what_is_seen
from ampflow.tuning.results import (
    CHECKPOINT,
    END,
    Epoch,
    Objective,
    Result,
    TrainingFailed,
    read_result,
    result_of,
    trial_folder,
    write_result,
)
from ampflow.tuning.sampling import LOOKING
from ampflow.tuning.space import suggest
from ampflow.tuning.spec import StudySpec
from ampflow.tuning.study import reopen_study

__all__ = ["Busy", "Stopped", "TrialReport", "TrialRun", "is_reported"]

_TOLD = ("epochs", "best_epoch", "seconds", "worker", "reason", "reused_from", "fingerprints")
_LOOK = 2.0  # seconds between two looks at whether the trial is still ours
_DENSE, _SPARSE = 20, math.log(1.05)  # each epoch up to here; then one in every 5 % more epochs


class Busy(Exception):  # noqa: N818 - nothing went wrong
    """Somebody else is training the same hyperparameters, or computing the fingerprints."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The worker is to stop; the checkpoint is written."""

    def __init__(self, why: Ended) -> None:
        super().__init__(why)
        self.why = why


class _Pruned(Exception):  # noqa: N818 - nothing went wrong
    """The trial was dropped, and that was told."""


@dataclass(frozen=True)
class TrialReport:
    """How a trial ended.

    Parameters
    ----------
    number, state, params
        Which trial, how it ended, and its hyperparameters.
    value
        Validation MAE of the best epoch, eV per structure; None if it failed.
    epochs, best_epoch, seconds
        How long it trained, all workers together.
    worker
        Who ended it.
    reason
        Why it failed.
    reused_from
        The trial with the same hyperparameters that was trained for both, as "study/number".
    fingerprints
        Where they are searched: what the trial's cost, as `ampflow.descriptors.Cost`.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    params: dict[str, Any]
    value: float | None
    epochs: int
    best_epoch: int | None
    seconds: float
    worker: str
    reason: str = ""
    reused_from: str = ""
    fingerprints: dict[str, Any] = field(default_factory=dict)


def is_reported(epoch: int, last: int) -> bool:
    """Tell whether the error after `epoch` is reported to the study.

    Each of the first 20, then some 14 for every doubling, and the last: 50 in 100 epochs, 100
    in 1,000. A database takes milliseconds for each, longer than many an epoch. Which they are
    depends on nothing but the epoch, as pruners compare trials at equal steps.
    """
    if epoch <= _DENSE or epoch == last:
        return True
    return int(math.log(epoch) / _SPARSE) > int(math.log(epoch - 1) / _SPARSE)


class TrialRun:
    """A claimed trial and what becomes of it.

    Reported to the study, and so to the pruner, is the least validation error so far: it is
    what the trial is scored by, it does not jump from epoch to epoch as the error itself, and
    it is the value that a pruned trial ends with.

    Parameters
    ----------
    objective
        How to train on a store.
    folders, stores
        Leases on the folders of trainings, and on stores that are being made.
    limits
        Asked after every epoch but the last.
    gpu
        The study's time on GPUs.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        claim: Claim,
        worker: str,
        objective: Callable[[Path], Objective],
        folders: Leases,
        stores: Leases,
        limits: Limits,
        gpu: GpuTime,
    ) -> None:
        self._spec, self._claim, self._worker, self._limits = spec, claim, worker, limits
        self._objective, self._gpu = objective, gpu
        self._folders, self._stores = folders, stores
        self._meter: Meter | None = None  # of a training on a GPU
        own = reopen_study(spec, study, claim.number)
        self._draft = Draft(study._storage, claim.trial_id, claim.number, claim.is_new)
        own._storage = cast("BaseStorage", self._draft)
        self._trial = optuna.Trial(own, claim.trial_id)
        self._steps = set() if claim.is_new else self._reported()
        self._leases: tuple[Lease, ...] = (claim.lease,)
        self._looked = time.monotonic()
        self._seconds: dict[int, float] = {}  # of each epoch
        self._best, self._best_epoch = math.inf, 0
        self._report: TrialReport | None = None

    def run(self) -> TrialReport:
        """Train the trial, or find that it was trained before, and tell its end.

        Raises
        ------
        Busy
            If somebody else is training the same right now, or computing the fingerprints.
        Stopped
            If asked to stop, or there is no time for another epoch.
        LeaseLost
            If somebody else took the trial over.
        """
        options = self._options = self._propose()
        fingerprints = self._spec.fingerprints_of(self._trial.params)
        self._store = self._spec.store_of(fingerprints)
        folder = trial_folder(self._spec, options, fingerprints)
        try:
            result = read_result(folder) or self._train(folder, fingerprints)
        except _Pruned:
            assert self._report is not None
            return self._report
        except Stopped:
            self._draft.write()
            raise
        return self._settle(result)

    def _propose(self) -> Training:
        """Ask the sampler, unless it was asked before, and keep what it saw."""
        space = self._spec.tuning.space
        if len(self._trial.params) < len(space):
            study, number = self._trial.study, self._claim.number
            looks = self._spec.tuning.sampler in LOOKING
            trials = study.get_trials(deepcopy=False) if looks else []
            seen = self._trial.user_attrs.get(SEEN)
            if seen is None:
                seen = what_is_seen(trials, number)
                self._trial.set_user_attr(SEEN, seen)
            # One who was killed between two hyperparameters is proposed the same again.
            self._trial.study = frozen(study, as_seen(trials, seen, number))
            try:
                options = suggest(self._trial, space, self._spec.training)
            finally:
                self._trial.study = study  # pruning is by all that there is
            self._draft.write()  # others are not to propose the same
            return options
        return suggest(self._trial, space, self._spec.training)

    def fail(self, reason: str) -> TrialReport:
        """Tell that the trial failed, for a reason that lies outside its hyperparameters."""
        return self._tell(TrialState.FAIL, reason=reason)

    def _train(self, folder: Path, fingerprints: Fingerprints) -> Result:
        if self._spec.tuning.searches_fingerprints:
            self._describe(fingerprints)
        lease = self._folders.claim(folder.name)
        if lease is None:
            raise Busy
        self._leases = (self._claim.lease, lease)
        try:
            if self._options.device == "cuda":
                self._meter = self._gpu.meter(self._claim.lease)
                if not self._meter.allows():
                    raise Stopped("gpu hours")
            beat = self._meter.write if self._meter else None
            with keep_alive(*self._leases, beat=beat):
                return read_result(folder) or self._result(folder)
        finally:
            if self._meter is not None:
                self._meter.close()
            lease.finish()

    def _describe(self, fingerprints: Fingerprints) -> None:
        """Have the trial's fingerprints computed, unless somebody did."""
        from ampflow.tuning.described import make_described  # imports what is compiled

        own = self._claim.lease
        if not make_described(self._spec, fingerprints, self._stores, own, self._between_shards):
            raise Busy

    def _between_shards(self) -> None:
        self._claim.lease.check()
        if why := self._limits.before_epoch(0.0):
            raise Stopped(why)

    def _result(self, folder: Path) -> Result:
        study, number = self._spec.name, self._claim.number
        checkpoint, objective = folder / CHECKPOINT, self._objective(self._store)
        done = objective.done(checkpoint)  # before it was interrupted, or pruned
        for epoch in done:
            self._note(epoch)
        if done:
            self._before_epoch(len(done) + 1, resumes=True)
        try:
            outcome = objective.train(
                self._options, self._spec.seed, checkpoint=checkpoint, on_epoch=self._on_epoch
            )
            result = result_of(outcome, study, number)
        except TrainingFailed as error:
            result = Result(study, number, list(self._seconds.values()), reason=str(error))
        self._claim.lease.check()
        write_result(folder, result)
        return result

    def _on_epoch(self, epoch: Epoch) -> None:
        self._note(epoch)
        self._before_epoch(epoch.number + 1)

    def _before_epoch(self, number: int, resumes: bool = False) -> None:
        """Stop if there is no time for an epoch, which may take as long as any before it."""
        if number <= self._options.epochs:
            # One that a batch job's end cuts off is lost: expect the next to be a long one.
            longest = max(self._seconds.values())
            why = self._limits.before_epoch(longest)
            if why == "job over" and resumes:
                why = None  # one epoch is tried: no other job may have more time
            if why is None and self._meter is not None and not self._meter.allows(longest):
                why = "gpu hours"
            if why is not None:
                raise Stopped(why)

    def _note(self, epoch: Epoch) -> None:
        """Take note of an epoch; report it, and end the trial if the pruner says so."""
        self._look()
        self._seconds[epoch.number] = epoch.seconds
        if epoch.validation_mae < self._best:
            self._best, self._best_epoch = epoch.validation_mae, epoch.number
        if self._put(epoch.number, self._best) and self._trial.should_prune():
            # Told before the trainer hears of it: a pruner that is asked again would not
            # always say the same.
            self._report = self._tell(TrialState.PRUNED)
            raise _Pruned
        if self._draft.is_due:
            self._draft.write()

    def _look(self) -> None:
        """See, every few seconds, that nobody took the trial over."""
        if time.monotonic() - self._looked > _LOOK:
            for lease in self._leases:
                lease.check()
            self._looked = time.monotonic()

    def _reported(self) -> set[int]:
        return set(self._trial.storage.get_trial(self._claim.trial_id).intermediate_values)

    def _put(self, epoch: int, best: float) -> bool:
        """Report the best error up to `epoch`; False if it needs no report."""
        if epoch in self._steps or not is_reported(epoch, self._options.epochs):
            return False
        if not math.isfinite(best):
            return False
        self._trial.report(best, epoch)
        self._steps.add(epoch)
        return True

    def _settle(self, result: Result) -> TrialReport:
        """Tell a result, whoever trained for it."""
        here = (result.study, result.trial) == (self._spec.name, self._claim.number)
        origin = "" if here else f"{result.study}/{result.trial}"
        self._seconds = dict(enumerate(result.seconds, 1))
        if result.validation_mae is None:
            return self._tell(TrialState.FAIL, reason=result.reason, reused_from=origin)
        best = math.inf
        for number, mae in enumerate(result.validation_maes, 1):
            best = min(best, mae)
            self._put(number, best)
        self._best, self._best_epoch = result.validation_mae, result.best_epoch or 0
        return self._tell(TrialState.COMPLETE, reused_from=origin)

    def _tell(self, state: TrialState, reason: str = "", reused_from: str = "") -> TrialReport:
        failed = state == TrialState.FAIL
        report = TrialReport(
            number=self._claim.number,
            state="failed" if failed else "pruned" if state == TrialState.PRUNED else "complete",
            params=self._trial.params,
            value=None if failed else self._best,
            epochs=len(self._seconds),
            best_epoch=None if failed else self._best_epoch,
            seconds=round(sum(self._seconds.values()), 3),
            worker=self._worker,
            reason=reason,
            reused_from=reused_from,
            fingerprints=self._cost(),
        )
        self._claim.lease.check()
        told = {name: getattr(report, name) for name in _TOLD}
        told = {name: value for name, value in told.items() if value not in ("", None, {})}
        if self._meter is not None:
            told["gpu_seconds"] = round(self._meter.total, 3)
        self._trial.set_user_attr(END, told | {"at": time.time()})
        values = None if report.value is None else [report.value]
        self._draft.end(state, values)
        return report

    def _cost(self) -> dict[str, Any]:
        """Return what the trial's fingerprints cost, where they are searched."""
        if not self._spec.tuning.searches_fingerprints:
            return {}
        from ampflow.descriptors import read_cost  # imports what is compiled

        cost = read_cost(self._store)
        return asdict(cost) if cost else {}
