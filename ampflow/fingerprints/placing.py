"""Structures as compiled code takes them, and what is wrong with those that it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import DataError
from ampflow.fingerprints.densities import Densities

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Batch", "Placed", "join_atoms", "place", "refusal", "single"]


class Batch(NamedTuple):
    """Structures as arrays, one after the other.

    Parameters
    ----------
    numbers
        (atoms,) atomic numbers.
    positions
        (atoms, 3) in Å.
    offsets
        (structures + 1,) where each structure's atoms begin.
    cells
        (structures, 3, 3) in Å, a vector a row; those of axes that are not periodic do not matter.
    pbc
        (structures, 3) which axes are periodic.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    offsets: NDArray[np.int64]
    cells: NDArray[np.float64]
    pbc: NDArray[np.bool_]


class Placed(NamedTuple):
    """What compiled code takes of a batch, with complete cells."""

    positions: NDArray[np.float64]
    offsets: NDArray[np.int64]
    cells: NDArray[np.float64]
    pbc: NDArray[np.bool_]


def single(atoms: Atoms) -> Batch:
    """Return a batch of one structure.

    Raises
    ------
    DataError
        If there are no atoms.
    """
    if len(atoms) == 0:
        raise DataError("the structure has no atoms")
    return Batch(
        np.array(atoms.numbers, dtype=np.int64),
        np.array(atoms.positions, dtype=np.float64),
        np.array([0, len(atoms)]),
        np.array(atoms.cell.array, dtype=np.float64)[None],
        np.array(atoms.pbc, dtype=np.bool_)[None],
    )


def join_atoms(structures: Sequence[Atoms]) -> Batch:
    """Return a batch of structures, none of which may be without atoms."""
    batches = [single(atoms) for atoms in structures]
    numbers, positions, _, cells, pbc = map(np.concatenate, zip(*batches, strict=True))
    return Batch(numbers, positions, np.cumsum([0, *map(len, structures)]), cells, pbc)


def place(batch: Batch) -> Placed:
    """Make one kind of arrays of a batch's, which is all that compiled code meets."""
    from ampflow.fingerprints.copies import complete_cell

    cells = np.array([complete_cell(*each) for each in zip(batch.cells, batch.pbc, strict=True)])
    return Placed(_compiled(batch.positions), _compiled(batch.offsets), cells, _compiled(batch.pbc))


def _compiled(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array, requirements=["C", "A", "W"])  # numba tells these types apart


def refusal(batch: Batch, densities: Densities, cutoff: float) -> DataError:
    """Say why compiled code refused the first structure of a batch.

    Raises
    ------
    DataError
        If it is for an element that has no density.
    """
    atoms, cell, pbc = int(batch.offsets[1]), batch.cells[0], batch.pbc[0]
    positions = batch.positions[:atoms]
    for number in set(batch.numbers[:atoms].tolist()):
        densities.of(number)
    if not np.isfinite(positions).all():
        where = int(np.argmin(np.isfinite(positions).all(axis=1)))
        return DataError(f"the position of atom {where} is not finite")
    if not np.isfinite(cell).all():
        return DataError("the cell is not finite")
    vectors = cell[pbc]
    if np.linalg.matrix_rank(vectors) < len(vectors):
        axes = " ".join(name for name, on in zip("abc", pbc, strict=True) if on)
        return DataError(
            f"periodic along {axes}, but its cell vectors there span no volume: {vectors.tolist()}",
            "give the structure a cell, or set its pbc to False",
        )
    return DataError(
        f"the cutoff of {cutoff} Å holds too many copies of the {atoms} atoms",
        "check the cell (in Å), or choose a smaller fingerprints.cutoff",
    )
