"""Structures whose fingerprints stay in their store, to be read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Structures
from ampflow.store import FingerprintStore

__all__ = ["Run", "Stored"]


class Run(NamedTuple):
    """Neighbours in a store, read together.

    Parameters
    ----------
    where
        (structures,) their positions in what was asked for.
    starts
        (structures,) where their atoms begin in `values`.
    values
        (atoms, features) fingerprints, of others in between as well.
    """

    where: NDArray[np.int64]
    starts: NDArray[np.int64]
    values: NDArray[np.float64]


class Stored(Structures):
    """Some structures of a store: labels in memory, a byte an atom, and fingerprints not.

    Raises
    ------
    StorageError
        Here and whenever fingerprints are read, if a file is missing or damaged.
    """

    def __init__(self, store: FingerprintStore, indices: NDArray[np.int64]) -> None:
        self._store, self._indices = store, np.asarray(indices, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(store.index.atoms[self._indices])])
        self.energies = store.index.energies[self._indices]
        numbers = np.empty(self.offsets[-1], np.uint8)
        for structures, atoms in self.spans():
            numbers[atoms] = store.load_numbers(self._indices[structures])
        self.numbers = numbers

    @property
    def features(self) -> int:
        """Columns of the fingerprints."""
        return len(self._store.header["features"])

    def read(self, structures: NDArray[np.int64]) -> Iterator[Run]:
        """Read the fingerprints of some structures, in the order they have in the store."""
        for where, part, rows in self._store.runs(self._indices[structures]):
            fingerprints = self._store.parts[part][1]
            first = int(rows.min())
            values = fingerprints.read(first, int(rows.max()) + 1)["values"]
            yield Run(where, fingerprints.offsets[rows] - fingerprints.offsets[first], values)

    def pieces(self) -> Iterator[Dataset]:
        """Go through all structures in order, some in memory at a time."""
        for structures, _ in self.spans():
            yield self._store.load(self._indices[structures])
