"""Structures as compiled code takes them, and what is wrong with those that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import DataError
from ampflow.fingerprints.densities import Densities

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Placed", "place", "refusal"]


class Placed(NamedTuple):
    """Positions (atoms, 3), a complete cell (3, 3), both in Å, and which axes are periodic (3,)."""

    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]


def place(atoms: Atoms) -> Placed:
    """Copy a structure's arrays, so that compiled code meets one kind of array only.

    Raises
    ------
    DataError
        If there are no atoms.
    """
    from ampflow.fingerprints.copies import complete_cell

    if len(atoms) == 0:
        raise DataError("the structure has no atoms")
    pbc = np.array(atoms.pbc, dtype=np.bool_)
    cell = np.array(atoms.cell.array, dtype=np.float64, order="C")
    positions = np.array(atoms.positions, dtype=np.float64, order="C")
    return Placed(positions, complete_cell(cell, pbc), pbc)


def refusal(atoms: Atoms, densities: Densities, cutoff: float) -> DataError:
    """Say why compiled code refused a structure.

    Raises
    ------
    DataError
        If it is for an element that has no density.
    """
    for number in set(atoms.numbers.tolist()):
        densities.of(number)
    if not np.isfinite(atoms.positions).all():
        where = int(np.argmin(np.isfinite(atoms.positions).all(axis=1)))
        return DataError(f"the position of atom {where} is not finite")
    if not np.isfinite(atoms.cell.array).all():
        return DataError("the cell is not finite")
    vectors = atoms.cell.array[atoms.pbc]
    if np.linalg.matrix_rank(vectors) < len(vectors):
        axes = " ".join(name for name, on in zip("abc", atoms.pbc, strict=True) if on)
        return DataError(
            f"periodic along {axes}, but its cell vectors there span no volume: {vectors.tolist()}",
            "give the structure a cell, or set its pbc to False",
        )
    return DataError(
        f"the cutoff of {cutoff} Å holds too many copies of the {len(atoms)} atoms",
        "check the cell (in Å), or choose a smaller fingerprints.cutoff",
    )
