"""The nearest pair of atoms in a structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called, entry

__all__ = ["nearest_pair"]


def nearest_pair(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> tuple[float, int, int]:
    """Find the two atoms nearest to each other.

    Exact for distances up to half the smallest height of the cell along a periodic axis: a
    vector that short has fractional coordinates within ±1/2, so rounding finds its image.

    Parameters
    ----------
    positions
        (atoms, 3) Å.
    cell
        (3, 3) Å, rows are the lattice vectors; need not be full where not periodic.
    pbc
        (3,) whether each axis is periodic.

    Returns
    -------
    tuple
        Distance in Å (infinite for one atom) and the indices of the two atoms.
    """
    periodic = cell * pbc[:, None]
    inverse = np.linalg.pinv(periodic)
    contiguous = np.ascontiguousarray(positions, dtype=np.float64)
    squared, i, j = called(_nearest, contiguous, contiguous @ inverse, periodic)
    return float(np.sqrt(squared)), int(i), int(j)


@entry
def _nearest(positions, fractional, cell):  # type: ignore[no-untyped-def]
    best, first, second = np.inf, -1, -1
    for i in range(len(positions)):
        for j in range(i):
            f0 = fractional[i, 0] - fractional[j, 0]
            f1 = fractional[i, 1] - fractional[j, 1]
            f2 = fractional[i, 2] - fractional[j, 2]
            n0, n1, n2 = np.rint(f0), np.rint(f1), np.rint(f2)
            squared = 0.0
            for k in range(3):
                shift = n0 * cell[0, k] + n1 * cell[1, k] + n2 * cell[2, k]
                d = positions[i, k] - positions[j, k] - shift
                squared += d * d
            if squared < best:
                best, first, second = squared, j, i
    return best, first, second
