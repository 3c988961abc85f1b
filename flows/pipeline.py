"""The whole path."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.tuning.spec import study_spec
from flows.fingerprint import fingerprint_structures
from flows.tune import search
from flows.workers import worker_pool
from tasks.report import write_report
from tasks.splits import split_structures
from tasks.tuning import best_options
from tasks.winner import train_potential

__all__ = ["pipeline"]


@flow(name="Pipeline")
def pipeline(experiment: Experiment) -> Path:
    """Structures in, tuned potential and report out."""
    with worker_pool(experiment):
        store = fingerprint_structures(experiment)
        parts = split_structures(experiment, store)
        study = search(study_spec(experiment, store, parts))
    training, fingerprints = best_options(study)
    model = train_potential(experiment, study, training, fingerprints)
    return write_report(experiment, study, model, fingerprints)
