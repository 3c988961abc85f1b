"""Parts of a store with the derivatives that training on forces needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Derivatives
from ampflow.fingerprints import GMP
from ampflow.store import FingerprintStore

__all__ = ["differentiate", "load_part"]


def load_part(store: FingerprintStore, indices: NDArray[np.int64], forces: bool) -> Dataset:
    """Read a part of a store; with `forces`, compute the derivatives of its fingerprints.

    Raises
    ------
    StorageError
        If the store cannot be read.
    """
    dataset = store.load(indices)
    if not forces or dataset.forces is None:
        return dataset
    structures = [store.image(int(index)).atoms for index in indices]
    descriptor = GMP.from_config(store.header["descriptor"])
    return replace(dataset, derivatives=differentiate(descriptor, structures))


def differentiate(descriptor: GMP, structures: Sequence[Atoms]) -> Derivatives:
    """Return the derivatives of the fingerprints of some structures."""
    features = descriptor.num_features
    counts, moved, values = [], [], []
    for atoms in structures:
        jacobian = descriptor.jacobian(atoms)
        rows = jacobian.indptr[::features]  # an atom's features depend on the same atoms
        for begin, end in pairwise(rows.tolist()):
            count = (end - begin) // (3 * features)
            counts.append(count)
            moved.append(jacobian.indices[begin : begin + 3 * count : 3] // 3)
            block = jacobian.data[begin:end].reshape(features, count, 3)
            values.append(block.transpose(1, 2, 0).astype(np.float32))
    return Derivatives(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(moved).astype(np.int64),
        np.concatenate(values),
    )
