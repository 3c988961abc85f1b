"""Pairs of atoms nearer than a cutoff: any cell, any periodicity, each pair once.

Every atom is moved into the cell along periodic axes, then copied to where a copy can be within
the cutoff of an atom. Atoms and copies are sorted into boxes, and each atom looks through the boxes
around its own.
"""

from __future__ import annotations

from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.copies import TOO_MANY, extent, invert, make_copies, wrap
from ampflow.simd import both_less, fma, four, load, multiply, pick, put, subtract

__all__ = ["BAD_CELL", "NOT_FINITE", "TOO_MANY", "Pairs", "half_pairs"]

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
    pairs = _room(32 * len(positions))
    for s in range(len(cells)):
        begin, end, cell = offsets[s], offsets[s + 1], cells[s]
        inverse, share = invert(cell)
        if share < 1e-9:
            return _counted(pairs, BAD_CELL)
        wrapped, scaled, check = wrap(positions[begin:end], cell, inverse, pbc[s])
        if 0.0 * (check + share) != 0.0:  # infinite or NaN
            return _counted(pairs, NOT_FINITE)
        count, points, owner = make_copies(wrapped, scaled, cell, inverse, pbc[s], cutoff)
        if count < 0:
            return _counted(pairs, count)
        boxes = _boxes(points, count, cutoff)
        pairs = _search(boxes, points, owner, count, end - begin, begin, cutoff, pairs)
    return pairs


@helper
def _room(count: int) -> Pairs:
    """Make room for so many pairs."""
    size = count + _PAD
    first, second = np.empty(size, np.int64), np.empty(size, np.int64)
    return Pairs(_NONE, first, second, np.empty(size), np.empty(size), np.empty(size))


@helper
def _grown(pairs: Pairs, count: int, room: int) -> Pairs:
    """Move the first `count` pairs to where there is more room."""
    grown = _room(room)
    for e in range(count):
        put(grown.first, e, pick(pairs.first, e))
        put(grown.second, e, pick(pairs.second, e))
        put(grown.x, e, pick(pairs.x, e))
        put(grown.y, e, pick(pairs.y, e))
        put(grown.z, e, pick(pairs.z, e))
    return grown


@helper
def _counted(pairs: Pairs, found: int) -> Pairs:
    return Pairs(found, pairs.first, pairs.second, pairs.x, pairs.y, pairs.z)


@helper
def _boxes(points: NDArray[np.float64], count: int, cutoff: float) -> tuple[NDArray[np.int64], ...]:
    """Sort points into boxes at least as wide as the cutoff.

    Returns the boxes along each axis, the box of each point, where each box begins, and the
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
    boxes = across[0] * across[1] * across[2]
    start = np.empty(boxes + 1, np.int64)
    for b in range(boxes + 1):
        put(start, b, _NONE)
    box = np.empty(count, np.int64)
    for p in range(count):
        number = _NONE
        for k in range(3):
            along = min(int((points[p, k] - low[k]) / edge), across[k] - 1)
            number = number * across[k] + along
        put(box, p, number)
        put(start, number, pick(start, number) + 1)
    # Where each box ends, then filled backwards down to where it begins.
    for b in range(boxes):
        put(start, b + 1, pick(start, b + 1) + pick(start, b))
    order = np.empty(count, np.int64)
    for p in range(count - 1, -1, -1):
        number = pick(box, p)
        put(start, number, pick(start, number) - 1)
        put(order, pick(start, number), p)
    return across, box, start, order


@helper
def _search(
    boxes: tuple[NDArray[np.int64], ...],
    points: NDArray[np.float64],
    owner: NDArray[np.int64],
    count: int,
    n: int,
    begin: int,
    cutoff: float,
    pairs: Pairs,
) -> Pairs:
    """Look through the boxes around each of n atoms for atoms after it, and for copies.

    Appends the pairs; the first of the atoms is number `begin`.
    """
    across, box, start, order = boxes
    size = count + _PAD  # what lies behind the last is read, and not looked at
    x, y, z, rank = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for p in range(count):
        i = pick(order, p)
        x[p], y[p], z[p], rank[p] = points[i, 0], points[i, 1], points[i, 2], i
    near = np.empty(size, np.int64)
    done = pairs.found
    for at in range(count):
        i = pick(order, at)
        if i >= n:
            continue
        centre = four(pick(x, at)), four(pick(y, at)), four(pick(z, at))
        row = pick(box, i) // across[2]
        low, high = pick(box, i) - row * across[2] - 1, pick(box, i) - row * across[2] + 2
        plane = row // across[1]
        line = row - plane * across[1]
        found = _NONE
        for a in range(max(plane - 1, 0), min(plane + 2, across[0])):
            for b in range(max(line - 1, 0), min(line + 2, across[1])):
                row = (a * across[1] + b) * across[2]
                first, last = row + max(low, 0), row + min(high, across[2])
                bounds = pick(start, first), pick(start, last)
                found = _scan(bounds, x, y, z, rank, centre, i, cutoff, near, found)
        if done + found + _PAD > len(pairs.x):
            pairs = _grown(pairs, done, 2 * (done + found))
        for e in range(found):
            p = pick(near, e)
            put(pairs.first, done, begin + i)
            put(pairs.second, done, begin + pick(owner, pick(order, p)))
            put(pairs.x, done, pick(x, p) - pick(x, at))
            put(pairs.y, done, pick(y, p) - pick(y, at))
            put(pairs.z, done, pick(z, p) - pick(z, at))
            done += 1
    for e in range(done, done + _PAD):
        put(pairs.first, e, _NONE)
        put(pairs.second, e, _NONE)
        put(pairs.x, e, 0.0)
        put(pairs.y, e, 0.0)
        put(pairs.z, e, 0.0)
    return _counted(pairs, done)


@inlined
def _scan(
    bounds: tuple[int, int],
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
    (begin, end), limit, after = bounds, four(cutoff * cutoff), four(float(i))
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
