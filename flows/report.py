"""The report of a study as it is."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.tuning.spec import study_spec
from flows.fingerprint import fingerprint_structures
from tasks.report import write_report
from tasks.splits import split_structures
from tasks.tuning import best_options
from tasks.winner import train_potential

__all__ = ["report"]


@flow(name="Report")
def report(experiment: Experiment) -> Path:
    """Report what the study has found so far, without new trials."""
    store = fingerprint_structures(experiment)
    parts = split_structures(experiment, store)
    spec = study_spec(experiment, store, parts)
    training, fingerprints = best_options(spec)
    model = train_potential(experiment, spec, training, fingerprints)
    return write_report(experiment, spec, model, fingerprints)
