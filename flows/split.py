"""The split alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from flows.fingerprint import fingerprint_structures
from flows.workers import worker_pool
from tasks.splits import split_structures

__all__ = ["split"]


@flow(name="Split")
def split(experiment: Experiment) -> Path:
    """Divide the structures into train, validation and test."""
    with worker_pool(experiment):
        store = fingerprint_structures(experiment)
    return split_structures(experiment, store)
