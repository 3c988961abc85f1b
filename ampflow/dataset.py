"""Structures as a few contiguous arrays: what training reads, with no object a structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest

__all__ = ["Dataset", "Derivatives", "Structures", "Summary"]

_PIECE = 65536  # atoms looked at together, so that memory does not grow with the structures


class Summary(NamedTuple):
    """What one reading of all fingerprints finds.

    Parameters
    ----------
    mean, variance, largest
        (features,) over atoms; the last is the largest absolute value.
    digest
        Of fingerprints, elements, sizes and energies.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    largest: NDArray[np.float64]
    digest: str


class Structures(ABC):
    """Labels of some structures, atom after atom, structure after structure.

    Their fingerprints are in memory (`Dataset`) or read when they are needed
    (`ampflow.stored.Stored`).

    Parameters
    ----------
    numbers
        (atoms,) atomic numbers.
    offsets
        (structures + 1,) where each structure's atoms begin; the last is the number of atoms.
    energies
        (structures,) eV.
    """

    numbers: NDArray[np.integer]
    offsets: NDArray[np.int64]
    energies: NDArray[np.float64]

    @property
    @abstractmethod
    def features(self) -> int:
        """Columns of the fingerprints."""

    @abstractmethod
    def pieces(self) -> Iterator[Dataset]:
        """Go through all structures in order, some in memory at a time."""

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def atoms_per_structure(self) -> NDArray[np.int64]:
        """(structures,) number of atoms of each structure."""
        return np.diff(self.offsets)

    @property
    def elements(self) -> NDArray[np.int64]:
        """Atomic numbers that occur, ascending."""
        return np.unique(self.numbers).astype(np.int64)

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """Divide the structures into runs of not too many atoms: slices of structures and atoms."""
        cuts = [0]
        while cuts[-1] < len(self):
            end = self.offsets[cuts[-1]] + _PIECE
            after = int(np.searchsorted(self.offsets, end, side="right")) - 1
            cuts.append(max(after, cuts[-1] + 1))
        for start, stop in pairwise(cuts):
            yield slice(start, stop), slice(int(self.offsets[start]), int(self.offsets[stop]))

    def composition(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the atoms of `elements` in each structure: (structures, elements).

        Atoms of other elements are not counted.
        """
        counts = np.zeros((len(self), len(elements)), dtype=np.int64)
        for structures, atoms in self.spans():
            numbers = self.numbers[atoms]
            structure = np.repeat(np.arange(len(self))[structures], self._sizes(structures))
            column = np.searchsorted(elements, numbers).clip(max=len(elements) - 1)
            known = elements[column] == numbers
            np.add.at(counts, (structure[known], column[known]), 1)
        return counts

    def _sizes(self, structures: slice) -> NDArray[np.int64]:
        return np.diff(self.offsets[structures.start : structures.stop + 1])

    @cached_property
    def summary(self) -> Summary:
        """What one reading of all fingerprints finds, kept.

        Variances of pieces are joined as Chan, Golub and LeVeque (1983) do.
        """
        count, names = 0, []
        mean, variance, largest = np.zeros((3, self.features))
        for piece in self.pieces():
            rows = piece.fingerprints
            more, total = len(rows), count + len(rows)
            shift, spread = rows.mean(axis=0) - mean, rows.var(axis=0)
            if count:
                spread = (count * variance + more * spread) / total
                spread += shift**2 * (count * more / total**2)
            variance, mean, count = spread, mean + shift * (more / total), total
            largest = np.maximum(largest, np.abs(rows).max(axis=0))
            names.append(digest(rows, piece.numbers.astype(np.int64)))
        return Summary(mean, variance, largest, digest(self.offsets, self.energies, names))


@dataclass(frozen=True)
class Derivatives:
    """Derivatives of fingerprints by positions: a block for each atom that an atom depends on.

    Derivatives by strain are two more blocks of each atom, as if two atoms behind the structure's
    last moved: minus the derivatives by the strain, divided by the volume, xx yy zz and yz xz xy.
    So what makes forces of them makes the stress.

    Parameters
    ----------
    starts
        (atoms + 1,) where each atom's blocks begin.
    moved
        (blocks,) which atom moves, counted within the structure.
    values
        (blocks, 3, features) float32, 1/Å; of strain 1/Å³.
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
class Dataset(Structures):
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
        Of the fingerprints, which training on forces or stresses needs; None where they were not
        computed.
    stresses
        (structures, 6) eV/Å³, xx yy zz yz xz xy, or None where some structure has none.
    """

    fingerprints: NDArray[np.float64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None = None
    derivatives: Derivatives | None = None
    stresses: NDArray[np.float64] | None = None

    @property
    def features(self) -> int:
        """Columns of the fingerprints."""
        return int(self.fingerprints.shape[1])

    def pieces(self) -> Iterator[Dataset]:
        """Go through all structures in order, as views."""
        for structures, atoms in self.spans():
            offsets = self.offsets[structures.start : structures.stop + 1]
            yield Dataset(
                self.fingerprints[atoms],
                self.numbers[atoms],
                offsets - offsets[0],
                self.energies[structures],
            )

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
            stresses=None if self.stresses is None else self.stresses[indices],
        )
