"""One potential, without a search."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.tuning.spec import study_spec
from flows.fingerprint import fingerprint_structures
from flows.workers import worker_pool
from tasks.report import write_report
from tasks.splits import split_structures
from tasks.winner import train_potential

__all__ = ["train"]


@flow(name="Train")
def train(experiment: Experiment) -> Path:
    """Train with the hyperparameters of [training] as they are, and report."""
    with worker_pool(experiment):
        store = fingerprint_structures(experiment)
    parts = split_structures(experiment, store)
    spec = study_spec(experiment, store, parts)
    model = train_potential(experiment, spec, experiment.training, experiment.fingerprints)
    return write_report(experiment, spec, model, experiment.fingerprints, with_study=False)
