"""The search for hyperparameters."""

from __future__ import annotations

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.tuning.spec import StudySpec, study_spec
from flows.fingerprint import fingerprint_structures
from flows.workers import current_pool, worker_pool
from tasks.leases import keep_working
from tasks.splits import split_structures
from tasks.tuning import deadline_of, follow_study, prepare, worker_names

__all__ = ["search", "tune"]


@flow(name="Tune")
def tune(experiment: Experiment) -> StudySpec:
    """Search the hyperparameters; the study keeps every trial, and goes on when run again."""
    with worker_pool(experiment):
        store = fingerprint_structures(experiment)
        parts = split_structures(experiment, store)
        return search(study_spec(experiment, store, parts))


def search(spec: StudySpec) -> StudySpec:
    """Let workers train trials until the study is finished; nothing to do if it is."""
    left, pool = prepare(spec), current_pool()
    names = worker_names(pool.size, left, spec.tuning.stack)
    if names:
        _search.with_options(task_runner=pool.runner())(spec, names)
    return spec


@flow(name="Tuning")
def _search(spec: StudySpec, names: list[str]) -> None:
    workers = current_pool().workers
    with follow_study(spec, workers.note):
        keep_working(spec, names, deadline_of(spec), workers)
