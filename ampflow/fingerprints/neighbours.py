"""Pairs of atoms nearer than a cutoff: any cell, any periodicity, each pair once.

Every atom is moved into the cell along periodic axes, then copied to where a copy can be within
the cutoff of an atom. Two copies may stand for one pair, seen from either end: only that whose
first shift other than zero is positive is made. Atoms and copies are sorted into boxes, and each
atom looks through the boxes around its own.
"""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.simd import both_less, fma, four, load, multiply, pick, put, subtract

__all__ = ["BAD_CELL", "NOT_FINITE", "TOO_MANY", "Pairs", "complete_cell", "find_pairs"]
__all__ += ["half_pairs"]

NOT_FINITE, BAD_CELL, TOO_MANY = -1, -2, -3  # in place of a number of pairs
_MOST_COPIES = 20_000_000
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


@entry
def half_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> Pairs:
    """Find every pair of atoms, or of an atom and a copy, nearer than the cutoff.

    Parameters
    ----------
    positions
        (atoms, 3) in Å, inside the cell or not.
    cell
        (3, 3) in Å, a vector a row, complete (see `complete_cell`).
    pbc
        (3,) which axes are periodic.
    cutoff
        In Å; a pair at exactly this distance is left out.
    """
    return find_pairs(positions, cell, pbc, cutoff)


@helper
def find_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float
) -> Pairs:
    """Find pairs: `half_pairs` for compiled code."""
    inverse, share = _inverse(cell)
    if share < 1e-9:
        return _nothing(BAD_CELL)
    wrapped, scaled, check = _wrap(positions, cell, inverse, pbc)
    if 0.0 * (check + share) != 0.0:  # infinite or NaN
        return _nothing(NOT_FINITE)
    margin = np.empty(3)
    for k in range(3):
        per_height = inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2
        margin[k] = cutoff * sqrt(per_height) + 1e-9
    total, points, owner = _copies(wrapped, scaled, cell, pbc, margin)
    if total < 0:
        return _nothing(TOO_MANY)
    return _search(points, owner, total, len(positions), cutoff)


@helper
def _nothing(code: int) -> Pairs:
    none, nowhere = np.empty(0, np.int64), np.empty(0)
    return Pairs(code, none, none, nowhere, nowhere, nowhere)


@helper
def _inverse(cell: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Invert a cell; return also its volume as a share of the box with the same edges.

    The share is 0 or nearly if the vectors lie in a plane, and NaN if something is not finite.
    """
    cofactors = np.empty((3, 3))
    edges = 1.0
    for k in range(3):
        m, n = (k + 1) % 3, (k + 2) % 3
        edges *= cell[k, 0] ** 2 + cell[k, 1] ** 2 + cell[k, 2] ** 2
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
def _wrap(
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
def _extent(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], ...]:
    """Lowest and highest coordinates."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(count):
        for k in range(3):
            low[k], high[k] = min(low[k], points[i, k]), max(high[k], points[i, k])
    return low, high


@helper
def _copies(
    wrapped: NDArray[np.float64],
    scaled: NDArray[np.float64],
    lattice: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    margin: NDArray[np.float64],
) -> tuple[int, NDArray[np.float64], NDArray[np.int64]]:
    """Return atoms, then copies that can be near an atom: number, positions, whose they are."""
    n = len(wrapped)
    low, high = _extent(scaled, n)
    room = 1.0
    for k in range(3):
        low[k], high[k] = low[k] - margin[k], high[k] + margin[k]
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
    last = np.zeros(3, np.int64)
    first = np.zeros(3, np.int64)
    for j in range(n):
        for k in range(3):
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


@helper
def _boxes(
    points: NDArray[np.float64], count: int, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sort points into boxes at least as wide as the cutoff.

    Returns the boxes along each axis, the box of each point (3), where each box begins, and the
    points in the order of their boxes.
    """
    low, high = _extent(points, count)
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
    done = 0
    for at in range(total):
        i = order[at]
        if i >= n:
            continue
        centre = four(x[at]), four(y[at]), four(z[at])
        found = 0
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
