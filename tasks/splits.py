"""Splitting as a task."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from ampflow.experiment import Experiment
from ampflow.layout import Layout
from ampflow.splits import ensure_splits, split_is_whole, splits_digest
from ampflow.store import FingerprintStore
from tasks.caching import STEP, run_cached

__all__ = ["split_structures"]


def split_structures(experiment: Experiment, store: Path) -> Path:
    """Return the file of the experiment's split, made unless it exists."""
    layout = Layout.of(experiment)
    name = splits_digest(
        FingerprintStore(store).header["structures"], experiment.split, experiment.seed
    )
    path = layout.splits / f"{name}.json"
    return run_cached(
        _split, name, path, layout.steps, split_is_whole(path), experiment, store, path
    )


@task(name="Split", **STEP)
def _split(experiment: Experiment, store: Path, path: Path) -> None:
    ensure_splits(FingerprintStore(store), experiment.split, experiment.seed, path)
