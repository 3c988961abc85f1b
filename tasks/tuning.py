"""Tuning as tasks: the study, one lease a worker, and what the UI shows meanwhile."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypedDict

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from ampflow.clusters.workers import here, told_to_stop
from ampflow.errors import AmpflowError, StorageError
from ampflow.experiment import Fingerprints, Training
from ampflow.progress import Progress, watch
from ampflow.tuning.limits import job_end, job_margin
from ampflow.tuning.sampling import budget
from ampflow.tuning.study import (
    StudySpec,
    StudySummary,
    best_fingerprints,
    best_training,
    open_study,
    prepare_study,
    require_study,
    study_summary,
    trial_table,
)
from ampflow.tuning.worker import run_worker
from tasks.caching import STEP
from tasks.progress import step_progress

__all__ = [
    "Shift",
    "best_options",
    "deadline_of",
    "follow_study",
    "prepare",
    "work",
    "worker_names",
]

_log = logging.getLogger(__name__)
_SECONDS = 1.0  # between two looks at the study


@task(name="Study", task_run_name="Study", cache_policy=NO_CACHE, **STEP)
def prepare(spec: StudySpec) -> int:
    """Make the study, or open it to add trials; return how many are left to finish."""
    prepare_study(spec)
    total, finished = budget(spec.tuning), study_summary(spec).finished
    if finished >= total:
        watch("Tuning")(finished, finished, "there already")
    return max(0, total - finished)


def worker_names(count: int, left: int, stack: int) -> list[str]:
    """Name `count` workers for `left` trials, `stack` each: no more than there are trials for."""
    return [f"worker {number}" for number in range(1, min(count, -(-left // stack)) + 1)]


class Shift(TypedDict):
    """What a worker did until its end.

    `ended` says why, see `ampflow.tuning.worker.WorkerSummary`; `address` is the Dask worker's.
    """

    finished: int
    ended: str
    address: str


@task(name="Tuning worker", task_run_name="{worker}", cache_policy=NO_CACHE, **STEP)
def work(spec: StudySpec, worker: str, deadline: float | None) -> Shift:
    """Train trials until none is left, the time is up or the job ends."""
    try:
        require_study(spec)
        summary = run_worker(
            spec,
            worker,
            stop=told_to_stop(),
            deadline=deadline,
            job_end=job_end(),
            margin=job_margin(),
            wait=True,
        )
    except StorageError as error:
        # Seen from this machine only, perhaps: whoever hears of it has to know where.
        error.what = f"{worker} on {socket.gethostname()}: {error.what}"
        error.worker = here()  # type: ignore[attr-defined]
        raise
    finished = summary.complete + summary.pruned + summary.failed
    return Shift(finished=finished, ended=summary.ended, address=here())


def deadline_of(spec: StudySpec) -> float | None:
    """Return when a run that begins now is to start no more trials (seconds since 1970)."""
    hours = spec.tuning.hours
    return None if hours is None else time.time() + 3600 * hours


def best_options(spec: StudySpec) -> tuple[Training, Fingerprints]:
    """Return the hyperparameters of the best trial, and its fingerprints.

    Raises
    ------
    AmpflowError
        If no trial was completed.
    """
    best, fingerprints = best_training(spec), best_fingerprints(spec)
    if best is None or fingerprints is None:
        summary = study_summary(spec)
        raise AmpflowError(
            f"no trial of {spec.name} was completed ({summary.pruned} pruned, "
            f"{summary.failed} failed)",
            "ampflow studies show has the reasons; lower learning rates diverge less",
        )
    return best, fingerprints


@contextmanager
def follow_study(spec: StudySpec, note: Callable[[], str]) -> Iterator[None]:
    """Show how far the study is, on the terminal and in the UI, while workers work on it.

    Parameters
    ----------
    note
        Says what else there is to know, of the workers.
    """
    over = threading.Event()
    with step_progress("Tuning") as progress:
        follower = threading.Thread(
            target=copy_context().run,
            args=(_follow, spec, progress, over, note),
            name="follow study",
        )
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()
    _publish_trials(spec)


def _follow(
    spec: StudySpec, progress: Progress, over: threading.Event, note: Callable[[], str]
) -> None:
    total, study = budget(spec.tuning), open_study(spec)
    while True:
        last = over.is_set()
        try:
            summary = study_summary(spec, study)
            notes = [_note(summary), "" if last else note()]
            progress(summary.finished, total, ", ".join(filter(None, notes)))
        except Exception as error:  # it only watches: the next look may succeed
            _log.warning("could not look at the study: %s", error)
        if last:
            return
        over.wait(_SECONDS)


def _note(summary: StudySummary) -> str:
    best = "" if summary.best_value is None else f"best {summary.best_value:.4g} eV"
    counts = {"pruned": summary.pruned, "failed": summary.failed}
    return ", ".join(filter(None, [best, *(f"{n} {name}" for name, n in counts.items() if n)]))


def _publish_trials(spec: StudySpec) -> None:
    table = trial_table(open_study(spec)).drop(columns=["started", "finished", "worker"])
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    # Rows, not columns: Prefect's newer pages show an empty table for columns.
    trials = [{str(name): cell for name, cell in row.items()} for row in rows]
    create_table_artifact(trials, key="trials", description=f"Trials of {spec.name}")
