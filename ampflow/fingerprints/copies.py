"""Atoms moved into the cell, and their copies around it.

Of two copies that stand for one pair, seen from either end, only one is made: that whose first
shift other than zero is positive.
"""

from __future__ import annotations

from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import helper

__all__ = ["TOO_MANY", "complete_cell", "extent", "invert", "make_copies", "wrap"]

TOO_MANY = -3  # in place of a number of copies
_MOST_COPIES = 20_000_000


def complete_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Put unit vectors normal to the periodic ones in place of the others.

    Parameters
    ----------
    cell
        (3, 3) in Å, a vector a row.
    pbc
        (3,) which axes are periodic.
    """
    if pbc.all() or not np.isfinite(cell).all():
        return cell
    if not pbc.any():
        return np.eye(3)
    complete = cell.copy()
    complete[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    return complete


@helper
def invert(cell: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Invert a cell; return also its volume as a share of the box with the same edges.

    The share is 0 or nearly if the vectors lie in a plane, and NaN if something is not finite.
    """
    cofactors = np.empty((3, 3))
    edges = 1.0
    for k in range(3):
        m, n = (k + 1) % 3, (k + 2) % 3
        edges *= cell[k, 0] * cell[k, 0] + cell[k, 1] * cell[k, 1] + cell[k, 2] * cell[k, 2]
        for c in range(3):
            d, e = (c + 1) % 3, (c + 2) % 3
            cofactors[c, k] = cell[m, d] * cell[n, e] - cell[m, e] * cell[n, d]
    volume = 0.0
    for c in range(3):
        volume += cell[0, c] * cofactors[c, 0]
    for c in range(3):
        for k in range(3):
            cofactors[c, k] /= volume
    return cofactors, (abs(volume) / sqrt(edges) if edges > 0.0 else 0.0 * edges)


@helper
def wrap(
    positions: NDArray[np.float64],
    lattice: NDArray[np.float64],
    inverse: NDArray[np.float64],
    pbc: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Move atoms into the cell along periodic axes.

    Returns Cartesian positions, scaled ones, and a number that is finite if all of them are.
    """
    check = 0.0
    wrapped, scaled = np.empty(positions.shape), np.empty(positions.shape)
    for i in range(len(positions)):
        for c in range(3):
            wrapped[i, c] = positions[i, c]
        for k in range(3):
            value = 0.0
            for c in range(3):
                value += positions[i, c] * inverse[c, k]
            turns = floor(value) if pbc[k] else 0.0
            scaled[i, k] = value - turns
            for c in range(3):
                wrapped[i, c] -= turns * lattice[k, c]
            check += 0.0 * value
    return wrapped, scaled, check


@helper
def extent(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], ...]:
    """Lowest and highest coordinates."""
    low, high = np.empty(3), np.empty(3)
    for k in range(3):
        low[k] = high[k] = points[0, k]
        for i in range(1, count):
            low[k], high[k] = min(low[k], points[i, k]), max(high[k], points[i, k])
    return low, high


@helper
def make_copies(
    wrapped: NDArray[np.float64],
    scaled: NDArray[np.float64],
    lattice: NDArray[np.float64],
    inverse: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
) -> tuple[int, NDArray[np.float64], NDArray[np.int64]]:
    """Return atoms, then copies that can be near an atom: number, positions, whose they are."""
    n = len(wrapped)
    low, high = extent(scaled, n)
    room = 1.0
    for k in range(3):
        square = 0.0
        for c in range(3):
            square += inverse[c, k] * inverse[c, k]
        margin = cutoff * sqrt(square) + 1e-9  # of one over the cell's height
        low[k], high[k] = low[k] - margin, high[k] + margin
        if pbc[k]:
            room *= floor(high[k] - low[k]) + 1.0
    if room * n > _MOST_COPIES:
        return TOO_MANY, wrapped, np.empty(0, np.int64)
    points, owner = np.empty((int(room) * n, 3)), np.empty(int(room) * n, np.int64)
    for j in range(n):
        owner[j] = j
        for k in range(3):
            points[j, k] = wrapped[j, k]
    count = n
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for j in range(n):
        for k in range(3):
            first[k] = last[k] = 0
            if pbc[k]:
                first[k], last[k] = ceil(low[k] - scaled[j, k]), floor(high[k] - scaled[j, k])
        for a in range(0, last[0] + 1):
            for b in range(first[1] if a > 0 else 0, last[1] + 1):
                for c in range(first[2] if a > 0 or b > 0 else 1, last[2] + 1):
                    owner[count] = j
                    for k in range(3):
                        shift = a * lattice[0, k] + b * lattice[1, k] + c * lattice[2, k]
                        points[count, k] = wrapped[j, k] + shift
                    count += 1
    return count, points, owner
