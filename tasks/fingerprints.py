"""Fingerprinting as a task."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from ampflow.experiment import Experiment
from ampflow.fingerprinting import (
    Source,
    find_source,
    fingerprint,
    make_descriptor,
    store_path,
)
from ampflow.layout import Layout
from ampflow.store import FingerprintStore, is_whole
from tasks.caching import STEP, run_cached
from tasks.progress import step_progress

__all__ = ["fingerprint_structures"]


def fingerprint_structures(experiment: Experiment) -> Path:
    """Return the fingerprint store of the experiment's structures, made unless it exists."""
    layout = Layout.of(experiment)
    source = find_source(experiment.data)
    path = store_path(
        layout.stores, source, experiment.data, make_descriptor(experiment.fingerprints)
    )
    return run_cached(
        _fingerprint, path.stem, path, layout.steps, is_whole(path), experiment, source, path
    )


@task(name="Fingerprints", **STEP)
def _fingerprint(experiment: Experiment, source: Source, path: Path) -> None:
    descriptor = make_descriptor(experiment.fingerprints)
    with step_progress("Fingerprints") as progress:
        store = fingerprint(source, experiment.data, descriptor, path, progress)
    create_markdown_artifact(_summary(store), key="fingerprints", description="Fingerprint store")


def _summary(store: FingerprintStore) -> str:
    header = store.header
    rows = {
        "structures": len(store),
        "atoms": int(store.index.atoms.sum()),
        "features": len(header["features"]),
        "left out": len(header["rejected"]),
        "copied from earlier stores": header["reused"],
        "file": store.path,
    }
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())
