"""What a run would do, without doing it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ampflow.experiment import Experiment
from ampflow.fingerprinting import (
    find_source,
    make_descriptor,
    store_path,
    structures_digest,
)
from ampflow.fingerprints import GMP
from ampflow.fingerprints.reach import reach_note
from ampflow.images import Image, Rejected
from ampflow.joining import find_repeated
from ampflow.layout import Layout
from ampflow.progress import Progress, silent
from ampflow.reading import count_images, read_images
from ampflow.splits import split_is_whole, splits_digest
from ampflow.store import FingerprintStore, is_whole
from ampflow.tuning.sampling import budget, make_sampler
from ampflow.tuning.space import largest_fingerprints
from ampflow.tuning.spec import StudySpec, study_spec
from ampflow.tuning.study import list_studies

__all__ = ["Plan", "make_plan"]

_BYTES_AN_ATOM = 8 * 3 * 2 + 1  # positions, forces, number
_BYTES_A_STRUCTURE = 400  # cell, labels, LMDB's page slack


@dataclass
class Plan:
    """What a run would work on, and what of it is there already."""

    files: list[Path]
    store: Path
    features: int
    most_features: int = 0
    structures: int = 0
    atoms: int = 0
    elements: set[str] = field(default_factory=set)
    rejected: list[Rejected] = field(default_factory=list)
    fingerprinted: bool = False
    split: bool = False
    trials: int = 0
    finished_trials: int = 0
    free_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def store_bytes(self) -> int:
        """About how large the store will be; the largest one, of a search."""
        atoms = self.atoms * (8 * max(self.features, self.most_features) + _BYTES_AN_ATOM)
        return atoms + self.structures * _BYTES_A_STRUCTURE


def make_plan(experiment: Experiment, progress: Progress = silent) -> Plan:
    """Look at all structures and at the cache.

    Raises
    ------
    DataError
        If a file is missing or a structure cannot be used, unless those are to be skipped.
    OptionError
        If the sampler cannot search the space.
    """
    layout = Layout.of(experiment)
    source = find_source(experiment.data)
    descriptor = make_descriptor(experiment.fingerprints)
    path = store_path(layout.stores, source, experiment.data, descriptor)
    structures = structures_digest(source, experiment.data, descriptor)
    split = layout.splits / f"{splits_digest(structures, experiment.split, experiment.seed)}.json"
    plan = Plan(source.files, path, descriptor.num_features, split=split_is_whole(split))
    plan.most_features = _most_features(experiment)
    plan.trials = budget(experiment.tuning)
    make_sampler(experiment.tuning, experiment.seed, 0)  # says what it cannot search
    plan.finished_trials = _finished(study_spec(experiment, path, split))
    plan.free_bytes = shutil.disk_usage(_existing_parent(layout.cache)).free
    plan.fingerprinted = is_whole(path)
    if plan.fingerprinted:
        _count_store(plan, FingerprintStore(path))
    else:
        known = frozenset(descriptor.densities.elements)
        images = read_images(source.files, (experiment.data.min_distance, known))
        _count_images(plan, images, experiment.data.on_bad == "skip", progress)
    plan.notes = _notes(descriptor, plan.elements)
    return plan


def _most_features(experiment: Experiment) -> int:
    """Return how many features the largest descriptor of a search has; 0 without one."""
    if not experiment.tuning.searches_fingerprints:
        return 0
    return max(
        make_descriptor(corner).num_features
        for corner in largest_fingerprints(experiment.fingerprints, experiment.tuning.space)
    )


def _notes(descriptor: GMP, elements: Iterable[str]) -> list[str]:
    from ase.data import atomic_numbers

    note = reach_note(descriptor, [atomic_numbers[symbol] for symbol in elements])
    return [note] if note else []


def _count_store(plan: Plan, store: FingerprintStore) -> None:
    from ase.data import chemical_symbols

    plan.structures, plan.atoms = len(store), int(store.index.atoms.sum())
    plan.elements = {chemical_symbols[number] for number in store.header["elements"]}
    plan.rejected = store.rejected


def _count_images(
    plan: Plan, images: Iterable[Image | Rejected], skip: bool, progress: Progress
) -> None:
    total = count_images(plan.files)
    ids = {file: number for number, file in enumerate(plan.files)}
    rows: list[tuple[bytes, float, int, int, int]] = []
    for done, item in enumerate(images, 1):
        if isinstance(item, Image):
            geometry = bytes.fromhex(item.geometry)
            rows.append((geometry, item.energy, ids[item.file], item.index, len(item.atoms)))
            plan.elements |= set(item.atoms.get_chemical_symbols())
        else:
            _leave_out(plan, item, skip)
        progress(done, total)
    names = ("geometries", "energies", "file_ids", "file_indices", "atoms")
    columns = {
        name: np.array([row[column] for row in rows]) for column, name in enumerate(names[1:], 1)
    }
    raw = np.frombuffer(b"".join(row[0] for row in rows), dtype=np.uint8)
    kept, repeated = find_repeated(columns | {"geometries": raw.reshape(len(rows), -1)}, plan.files)
    for item in repeated:
        _leave_out(plan, item, skip)
    plan.structures, plan.atoms = int(kept.sum()), int(columns["atoms"][kept].sum())


def _leave_out(plan: Plan, item: Rejected, skip: bool) -> None:
    if not item.duplicate and not skip:
        raise item.error()
    plan.rejected.append(item)


def _finished(spec: StudySpec) -> int:
    """Count the trials that the study has already, without making it."""
    studies = list_studies(spec.cache, spec.tuning.storage)
    return sum(study.finished for study in studies if study.name == spec.name)


def _existing_parent(path: Path) -> Path:
    return path if path.exists() else _existing_parent(path.parent)
