"""Files of structures as training data, divided the same way by all benchmarks."""

from __future__ import annotations

import ase.io
import numpy as np

from ampflow.dataset import Dataset
from ampflow.experiment import Fingerprints
from ampflow.fingerprinting import make_descriptor
from ampflow.potential.derivatives import differentiate

__all__ = ["dataset", "split"]


def dataset(file: str, fingerprints: Fingerprints | None = None, forces: bool = False) -> Dataset:
    """Read a file whole; with `forces`, with those and the derivatives of the fingerprints."""
    images, descriptor = ase.io.read(file, ":"), make_descriptor(fingerprints or Fingerprints())
    known = [atoms.get_forces(apply_constraint=False) for atoms in images] if forces else None
    return Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in images]),
        np.concatenate([atoms.numbers for atoms in images]).astype(np.int64),
        np.cumsum([0, *map(len, images)]),
        np.array([atoms.get_potential_energy() for atoms in images]),
        None if known is None else np.concatenate(known),
        differentiate(descriptor, images) if forces else None,
    )


def split(data: Dataset, seed: int) -> list[Dataset]:
    """Divide into train, validation and test, 8 to 1 to 1, with every element in train."""
    order, seen, first = np.random.default_rng(seed).permutation(len(data)), set(), []
    for index in order:
        elements = set(data.numbers[slice(*data.offsets[index : index + 2])].tolist())
        if elements - seen:
            first.append(index)
            seen |= elements
    rest, tenth = np.setdiff1d(order, first, assume_unique=True), len(data) // 10
    train_part = np.concatenate([first, rest[2 * tenth :]])
    return [data.take(chosen) for chosen in (train_part, rest[:tenth], rest[tenth : 2 * tenth])]
