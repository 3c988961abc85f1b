"""The split alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from tasks.fingerprints import fingerprint_structures
from tasks.splits import split_structures

__all__ = ["split"]


@flow(name="Split")
def split(experiment: Experiment) -> Path:
    """Divide the structures into train, validation and test."""
    store = fingerprint_structures(experiment)
    return split_structures(experiment, store)
