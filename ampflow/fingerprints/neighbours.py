"""Pairs of atoms nearer than a cutoff: any cell, any periodicity, each pair once.

Every atom is moved into the cell along periodic axes, then copied to where a copy can be within
the cutoff of an atom. Atoms and copies are sorted into boxes, and each atom looks through the boxes
around its own.
"""

from __future__ import annotations

from math import floor, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.copies import TOO_MANY, extent, invert, make_copies, wrap
from ampflow.simd import both_less, fma, four, load, multiply, pick, put, subtract

__all__ = ["BAD_CELL", "NOT_FINITE", "TOO_MANY", "Pairs", "find_pairs", "half_pairs"]

# In place of a number of pairs. Helpers are compiled for each whole number that Python wrote out,
# but once for all numbers of numpy's.
NOT_FINITE: Any = np.int64(-1)
BAD_CELL: Any = np.int64(-2)
_NONE: Any = np.int64(0)
_PAD = 4  # readable entries after the last pair, for vectors


class Pairs(NamedTuple):
    """Pairs (i, copy of j), each once; the arrays may be longer than `found`.

    Parameters
    ----------
    found
        Number of pairs, or a negative code of what is wrong with the input.
    first, second
        Atoms i and j; i = j where an atom meets its own copy.
    x, y, z
        Displacement from i to the copy of j, in Å.
    """

    found: int
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]


@entry
def half_pairs(
    positions: NDArray[np.float64],
    offsets: NDArray[np.int64],
    cells: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
) -> Pairs:
    """Find every pair of atoms, or of an atom and a copy, nearer than the cutoff.

    Parameters
    ----------
    positions
        (atoms, 3) in Å, inside the cell or not, of one structure after the other.
    offsets
        (structures + 1,) where each structure's atoms begin.
    cells
        (structures, 3, 3) in Å, a vector a row, complete (see `complete_cell`).
    pbc
        (structures, 3) which axes are periodic.
    cutoff
        In Å; a pair at exactly this distance is left out.
    """
    room = 32 * len(positions)
    first, second = np.empty(room + _PAD, np.int64), np.empty(room + _PAD, np.int64)
    x, y, z = np.empty(room + _PAD), np.empty(room + _PAD), np.empty(room + _PAD)
    done = _NONE
    for s in range(len(cells)):
        begin = offsets[s]
        own = find_pairs(positions[begin : offsets[s + 1]], cells[s], pbc[s], cutoff)
        if own.found < 0 or len(cells) == 1:
            return own
        if done + own.found > room:
            room = 2 * (done + own.found)
            first, second = _grown(first, done, room), _grown(second, done, room)
            x, y, z = _grown(x, done, room), _grown(y, done, room), _grown(z, done, room)
        for e in range(own.found + _PAD):  # those behind the last are zeros
            first[done + e], second[done + e] = begin + own.first[e], begin + own.second[e]
            x[done + e], y[done + e], z[done + e] = own.x[e], own.y[e], own.z[e]
        done += own.found
    return Pairs(done, first, second, x, y, z)


@helper
def find_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> Pairs:
    """Find the pairs of one structure."""
    inverse, share = invert(cell)
    if share < 1e-9:
        return _nothing(BAD_CELL)
    wrapped, scaled, check = wrap(positions, cell, inverse, pbc)
    if 0.0 * (check + share) != 0.0:  # infinite or NaN
        return _nothing(NOT_FINITE)
    margin = np.empty(3)
    for k in range(3):
        per_height = inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2
        margin[k] = cutoff * sqrt(per_height) + 1e-9
    total, points, owner = make_copies(wrapped, scaled, cell, pbc, margin)
    if total < 0:
        return _nothing(total)
    return _search(points, owner, total, len(positions), cutoff)


@helper
def _nothing(code: int) -> Pairs:
    none, nowhere = np.empty(0, np.int64), np.empty(0)
    return Pairs(code, none, none, nowhere, nowhere, nowhere)


@helper
def _boxes(
    points: NDArray[np.float64], count: int, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort points into boxes at least as wide as the cutoff.

    Returns the boxes along each axis, the box of each point (3), where each box begins, and the
    points in the order of their boxes.
    """
    low, high = extent(points, count)
    across = np.empty(3, np.int64)
    edge, total = cutoff, np.inf
    while total > 4.0 * count + 64.0:  # vast and empty: wider boxes
        total = 1.0
        for k in range(3):
            total *= floor((high[k] - low[k]) / edge) + 1.0
        edge *= 1.0 if total <= 4.0 * count + 64.0 else 1.5
    for k in range(3):
        across[k] = int((high[k] - low[k]) / edge) + 1
    place = np.empty((count, 3), np.int64)
    start = np.zeros(across[0] * across[1] * across[2] + 1, np.int64)
    for p in range(count):
        for k in range(3):
            place[p, k] = min(int((points[p, k] - low[k]) / edge), across[k] - 1)
        start[(place[p, 0] * across[1] + place[p, 1]) * across[2] + place[p, 2]] += 1
    # Where each box ends, then filled backwards down to where it begins.
    for box in range(1, len(start)):
        start[box] += start[box - 1]
    order = np.empty(count, np.int64)
    for p in range(count - 1, -1, -1):
        box = (place[p, 0] * across[1] + place[p, 1]) * across[2] + place[p, 2]
        start[box] -= 1
        order[start[box]] = p
    return across, place, start, order


@helper
def _search(
    points: NDArray[np.float64], owner: NDArray[np.int64], total: int, n: int, cutoff: float
) -> Pairs:
    """Look through the boxes around each atom for atoms after it, and for copies."""
    across, place, start, order = _boxes(points, total, cutoff)
    x, y, z = np.zeros(total + _PAD), np.zeros(total + _PAD), np.zeros(total + _PAD)
    rank = np.zeros(total + _PAD)
    for p in range(total):
        x[p], y[p], z[p] = points[order[p], 0], points[order[p], 1], points[order[p], 2]
        rank[p] = order[p]
    near = np.empty(total + _PAD, np.int64)
    room = 32 * n
    first, second = np.empty(room + _PAD, np.int64), np.empty(room + _PAD, np.int64)
    dx, dy, dz = np.empty(room + _PAD), np.empty(room + _PAD), np.empty(room + _PAD)
    done = _NONE
    for at in range(total):
        i = order[at]
        if i >= n:
            continue
        centre = four(x[at]), four(y[at]), four(z[at])
        found = _NONE
        for a in range(max(place[i, 0] - 1, 0), min(place[i, 0] + 2, across[0])):
            for b in range(max(place[i, 1] - 1, 0), min(place[i, 1] + 2, across[1])):
                row = (a * across[1] + b) * across[2]
                begin = pick(start, row + max(place[i, 2] - 1, 0))
                end = pick(start, row + min(place[i, 2] + 2, across[2]))
                found = _scan(begin, end, x, y, z, rank, centre, i, cutoff, near, found)
        if done + found > room:
            room = 2 * (done + found)
            first, second = _grown(first, done, room), _grown(second, done, room)
            dx, dy, dz = _grown(dx, done, room), _grown(dy, done, room), _grown(dz, done, room)
        for e in range(found):
            p = pick(near, e)
            put(first, done, i)
            put(second, done, pick(owner, pick(order, p)))
            put(dx, done, pick(x, p) - pick(x, at))
            put(dy, done, pick(y, p) - pick(y, at))
            put(dz, done, pick(z, p) - pick(z, at))
            done += 1
    for e in range(done, done + _PAD):
        first[e], second[e], dx[e], dy[e], dz[e] = 0, 0, 0.0, 0.0, 0.0
    return Pairs(done, first, second, dx, dy, dz)


@inlined
def _scan(
    begin: int,
    end: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    rank: NDArray[np.float64],
    centre: tuple[Any, Any, Any],
    i: int,
    cutoff: float,
    near: NDArray[np.int64],
    found: int,
) -> int:
    """Append points of higher rank than i within the cutoff to `near`, four at a time."""
    limit, after = four(cutoff * cutoff), four(float(i))
    for p in range(begin, end, 4):
        away = subtract(load(x, p, limit), centre[0])
        square = multiply(away, away)
        away = subtract(load(y, p, limit), centre[1])
        square = fma(away, away, square)
        away = subtract(load(z, p, limit), centre[2])
        square = fma(away, away, square)
        hits = both_less(square, limit, after, load(rank, p, limit))
        hits &= (1 << min(end - p, 4)) - 1
        for lane in range(4):  # no branch to mispredict: a miss is overwritten
            put(near, found, p + lane)
            found += (hits >> lane) & 1
    return found


@helper
def _grown(array: NDArray[Any], count: int, room: int) -> NDArray[Any]:
    grown = np.empty(room + _PAD, array.dtype)
    for e in range(count):
        grown[e] = array[e]
    return grown
