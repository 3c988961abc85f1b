"""Structures as a few contiguous arrays: what training reads, with no object a structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "Derivatives"]


@dataclass(frozen=True)
class Derivatives:
    """Derivatives of fingerprints by positions: a block for each atom that an atom depends on.

    Parameters
    ----------
    starts
        (atoms + 1,) where each atom's blocks begin.
    moved
        (blocks,) which atom moves, counted within the structure.
    values
        (blocks, 3, features) float32, 1/Å.
    """

    starts: NDArray[np.int64]
    moved: NDArray[np.int64]
    values: NDArray[np.float32]

    def take(self, atoms: NDArray[np.int64]) -> Derivatives:
        """Return those of some atoms, in that order; structures must stay whole."""
        counts = np.diff(self.starts)[atoms]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        blocks = np.repeat(self.starts[atoms] - starts[:-1], counts) + np.arange(starts[-1])
        return Derivatives(starts, self.moved[blocks], self.values[blocks])


@dataclass(frozen=True)
class Dataset:
    """Fingerprints and labels of some structures, atom after atom, structure after structure.

    Parameters
    ----------
    fingerprints
        (atoms, features).
    numbers
        (atoms,) atomic numbers.
    offsets
        (structures + 1,) where each structure's atoms begin; the last is the number of atoms.
    energies
        (structures,) eV.
    forces
        (atoms, 3) eV/Å, or None where some structure has none.
    derivatives
        Of the fingerprints, which training on forces needs; None where they were not computed.
    """

    fingerprints: NDArray[np.float64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None = None
    derivatives: Derivatives | None = None

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def atoms_per_structure(self) -> NDArray[np.int64]:
        """(structures,) number of atoms of each structure."""
        return np.diff(self.offsets)

    @property
    def elements(self) -> NDArray[np.int64]:
        """Atomic numbers that occur, ascending."""
        return np.unique(self.numbers)

    def composition(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the atoms of `elements` in each structure: (structures, elements).

        Atoms of other elements are not counted.
        """
        structure = np.repeat(np.arange(len(self)), self.atoms_per_structure)
        counts = np.zeros((len(self), len(elements)), dtype=np.int64)
        column = np.searchsorted(elements, self.numbers).clip(max=len(elements) - 1)
        known = elements[column] == self.numbers
        np.add.at(counts, (structure[known], column[known]), 1)
        return counts

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return the structures at `indices`, in that order."""
        sizes = self.atoms_per_structure[indices]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        atoms = np.repeat(self.offsets[indices] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return replace(
            self,
            fingerprints=self.fingerprints[atoms],
            numbers=self.numbers[atoms],
            offsets=offsets,
            energies=self.energies[indices],
            forces=None if self.forces is None else self.forces[atoms],
            derivatives=None if self.derivatives is None else self.derivatives.take(atoms),
        )
