"""Fingerprints alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from tasks.fingerprints import fingerprint_structures

__all__ = ["fingerprint"]


@flow(name="Fingerprint")
def fingerprint(experiment: Experiment) -> Path:
    """Read and check the structures, and compute their fingerprints."""
    return fingerprint_structures(experiment)
