"""Structures with energies, and whether they can be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.contacts import nearest_pair
from ampflow.digests import digest
from ampflow.errors import DataError

__all__ = ["Image", "Rejected", "check_image"]


@dataclass(frozen=True)
class Image:
    """A structure that can be used.

    Parameters
    ----------
    atoms
        The structure, without its calculator.
    energy
        eV.
    forces
        (atoms, 3) eV/Å as the file has them (constraints are not applied), or None.
    file, index
        Where it came from; indices count from 0.
    geometry
        Digest of numbers, positions, cell and pbc.
    """

    atoms: Atoms
    energy: float
    forces: NDArray[np.float64] | None
    file: Path
    index: int
    geometry: str


@dataclass(frozen=True)
class Rejected:
    """A structure that is left out, and why.

    A duplicate is one that was read before, with the same energy: leaving it out loses
    nothing, so it is not an error under any policy.
    """

    file: Path
    index: int
    reason: str
    hint: str = ""
    duplicate: bool = False

    def error(self) -> DataError:
        """Say it as an error."""
        return DataError(
            f"{self.file}, structure {self.index}: {self.reason}",
            self.hint or 'mend the file, or leave such structures out: data.on_bad = "skip"',
        )


def check_image(
    atoms: Atoms, file: Path, index: int, min_distance: float, known: frozenset[int]
) -> Image | Rejected:
    """Tell whether a structure can be used.

    Parameters
    ----------
    atoms
        As it was read, with its results.
    file, index
        Where it was read.
    min_distance
        Two atoms nearer than this (Å) lie on top of each other.
    known
        Atomic numbers that have a density.
    """
    results = atoms.calc.results if atoms.calc is not None else {}
    energy, forces = results.get("energy"), results.get("forces")
    reason = (
        _bad_geometry(atoms)
        or _bad_labels(energy, forces)
        or _bad_atoms(atoms, min_distance, known)
    )
    if reason:
        return Rejected(file, index, reason)
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    cell = np.asarray(bare.cell, dtype=np.float64)
    return Image(
        bare,
        float(results["energy"]),
        None if forces is None else np.asarray(forces, dtype=np.float64),
        file,
        index,
        digest(bare.numbers, bare.positions, cell, bare.pbc),
    )


def _bad_geometry(atoms: Atoms) -> str:
    if len(atoms) == 0:
        return "it has no atoms"
    if not np.isfinite(atoms.positions).all():
        return f"the position of atom {_first_bad(atoms.positions)} is not a finite number"
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all():
        return "the cell has a value that is not a finite number"
    vectors = cell[atoms.pbc]
    if len(vectors) and np.linalg.matrix_rank(vectors) < len(vectors):
        return "it is periodic but its cell is missing or flat along a periodic axis"
    return ""


def _bad_labels(energy: object, forces: object) -> str:
    if energy is None:
        return "it has no energy"
    if not np.isfinite(np.asarray(energy, dtype=float)).all():
        return f"its energy is {energy}"
    if forces is not None and not np.isfinite(np.asarray(forces, dtype=float)).all():
        return f"the force on atom {_first_bad(np.asarray(forces))} is not a finite number"
    return ""


def _bad_atoms(atoms: Atoms, min_distance: float, known: frozenset[int]) -> str:
    unknown = sorted(set(atoms.numbers.tolist()) - known)
    if unknown:
        from ase.data import chemical_symbols

        names = ", ".join(chemical_symbols[number] for number in unknown)
        return f"no density for {names}"
    distance, i, j = nearest_pair(atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    if distance < min_distance:
        return f"atoms {i} and {j} are {distance:.3f} Å apart, nearer than {min_distance:g} Å"
    return ""


def _first_bad(rows: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
