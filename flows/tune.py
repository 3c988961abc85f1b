"""The search for hyperparameters."""

from __future__ import annotations

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.tuning.spec import StudySpec, study_spec
from flows.workers import local_workers, wait_for_workers
from tasks.fingerprints import fingerprint_structures
from tasks.splits import split_structures
from tasks.tuning import deadline_of, follow_study, prepare, work, worker_names

__all__ = ["search", "tune"]


@flow(name="Tune")
def tune(experiment: Experiment) -> StudySpec:
    """Search the hyperparameters; the study keeps every trial, and goes on when run again."""
    store = fingerprint_structures(experiment)
    parts = split_structures(experiment, store)
    return search(study_spec(experiment, store, parts))


def search(spec: StudySpec) -> StudySpec:
    """Let workers train trials until the study is finished; nothing to do if it is."""
    left = prepare(spec)
    names = worker_names(spec, left)
    if names:
        workers = local_workers(len(names))
        _search.with_options(task_runner=workers)(spec, names, deadline_of(spec))
    return spec


@flow(name="Tuning")
def _search(spec: StudySpec, names: list[str], deadline: float | None) -> None:
    with follow_study(spec):
        wait_for_workers([work.submit(spec, name, deadline) for name in names])
