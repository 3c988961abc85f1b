"""The nearest pairs of atoms in structures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called, entry

__all__ = ["nearest_pairs"]


def nearest_pairs(
    positions: NDArray[np.float64], offsets: NDArray[np.int64], cells: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the two atoms nearest to each other in each of some structures.

    Exact for distances up to half the smallest height of the cell along a periodic axis: a
    vector that short has fractional coordinates within ±1/2, so rounding finds its image.

    Parameters
    ----------
    positions
        (atoms, 3) Å, of one structure after the other.
    offsets
        (structures + 1,) where each one's atoms begin.
    cells
        (structures, 3, 3) Å, rows are the lattice vectors: zeros where an axis is not periodic.

    Returns
    -------
    distances, pairs
        (structures,) Å, infinite for one atom; (structures, 2) the atoms' numbers, -1 for none.
    """
    squared = np.full(len(cells), np.inf)
    pairs = np.full((len(cells), 2), -1)
    called(_nearest, positions, offsets, cells, np.linalg.pinv(cells), squared, pairs)
    return np.sqrt(squared), pairs


@entry
def _nearest(positions, offsets, cells, inverses, squared, pairs):  # type: ignore[no-untyped-def]
    fractional = np.empty((len(positions), 3))
    for s in range(len(cells)):
        begin, end, cell, inverse = offsets[s], offsets[s + 1], cells[s], inverses[s]
        for i in range(begin, end):
            for k in range(3):
                fractional[i, k] = (
                    positions[i, 0] * inverse[0, k]
                    + positions[i, 1] * inverse[1, k]
                    + positions[i, 2] * inverse[2, k]
                )
            for j in range(begin, i):
                n0 = np.rint(fractional[i, 0] - fractional[j, 0])
                n1 = np.rint(fractional[i, 1] - fractional[j, 1])
                n2 = np.rint(fractional[i, 2] - fractional[j, 2])
                square = 0.0
                for k in range(3):
                    shift = n0 * cell[0, k] + n1 * cell[1, k] + n2 * cell[2, k]
                    d = positions[i, k] - positions[j, k] - shift
                    square += d * d
                if square < squared[s]:
                    squared[s], pairs[s, 0], pairs[s, 1] = square, j - begin, i - begin
