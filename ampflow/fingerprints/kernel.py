"""The compiled heart: from atoms to features, one call a structure.

Pairs are taken once and serve both atoms. For four pairs at a time the polynomials are evaluated;
then, pair by pair, the radial functions for four sigmas at a time, and the products are added up.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ampflow.fingerprints.neighbours import Pairs, half_pairs
from ampflow.fingerprints.simd import exp2, fma, load, multiply, splat, store
from ampflow.fingerprints.tables import LANES, RADIALS_AT_ONCE, Angular, Combination, Radial

__all__ = ["UNKNOWN_ELEMENT", "features"]

UNKNOWN_ELEMENT = -10

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True, error_model="numpy")
def features(
    numbers: NDArray[np.int64],
    positions: Floats,
    cell: Floats,
    pbc: NDArray[np.bool_],
    cutoff: float,
    angular: Angular,
    radial: Radial,
    combination: Combination,
    square: bool,
    out: Floats,
) -> int:
    """Fill `out` (atoms, features of all sigmas); return 0, or the code of what is wrong."""
    n = len(numbers)
    rows = np.empty(n, np.int64)
    for i in range(n):
        if not 0 <= numbers[i] < len(radial.row_of) or radial.row_of[numbers[i]] < 0:
            return UNKNOWN_ELEMENT
        rows[i] = radial.row_of[numbers[i]]
    pairs = half_pairs(positions, cell, pbc, cutoff)
    if pairs.found < 0:
        return pairs.found
    multipoles = _own(rows, radial)
    _add_pairs(pairs, rows, angular, radial, multipoles)
    _combine(multipoles, radial, combination, square, out)
    return 0


@njit(nogil=True)
def _own(rows: NDArray[np.int64], radial: Radial) -> Floats:
    """[atom, sigmas / 4, component, 4], flat: what each atom's own density adds."""
    size = radial.blocks * radial.components * LANES
    multipoles = np.empty(len(rows) * size)
    for i in range(len(rows)):
        for k in range(0, size, LANES):
            store(multipoles, i * size + k, load(radial.own, rows[i] * size + k))
    return multipoles


@njit(nogil=True)
def _add_pairs(
    pairs: Pairs, rows: NDArray[np.int64], angular: Angular, radial: Radial, multipoles: Floats
) -> None:
    """Add to each atom's multipoles what its neighbours contribute."""
    size = radial.blocks * radial.components * LANES
    monomials = np.empty(LANES * len(angular.parent))
    terms = np.empty(LANES * (len(angular.start) - 1))
    exponentials = np.empty(LANES * radial.most)
    values = np.empty(LANES * RADIALS_AT_ONCE * radial.chunks)
    for first in range(0, pairs.found, LANES):
        _polynomials(pairs, first, angular, monomials, terms)
        for lane in range(min(LANES, pairs.found - first)):
            pair = first + lane
            i, j = pairs.first[pair], pairs.second[pair]
            alike = rows[i] == rows[j]
            square = splat(pairs.x[pair] ** 2 + pairs.y[pair] ** 2 + pairs.z[pair] ** 2)
            for end in range(1 if alike else 2):
                row, atom = (rows[j], i) if end == 0 else (rows[i], j)
                for block in range(radial.blocks):
                    _radial(row, block, square, radial, exponentials, values)
                    shift = block * radial.components * LANES
                    _add(values, terms, lane, radial, end == 1, multipoles, atom * size + shift)
                    if alike:
                        _add(values, terms, lane, radial, True, multipoles, j * size + shift)


@njit(nogil=True)
def _polynomials(
    pairs: Pairs, first: int, angular: Angular, monomials: Floats, terms: Floats
) -> None:
    """Evaluate all terms for four pairs: monomials and terms are [number, 4], flat."""
    x, y, z = load(pairs.x, first), load(pairs.y, first), load(pairs.z, first)
    store(monomials, 0, splat(1.0))
    for m in range(1, len(angular.parent)):
        lower = load(monomials, LANES * angular.parent[m])
        along = x if angular.axis[m] == 0 else y if angular.axis[m] == 1 else z
        store(monomials, LANES * m, multiply(lower, along))
    for t in range(len(angular.start) - 1):
        value = splat(0.0)
        for k in range(angular.start[t], angular.start[t + 1]):
            monomial = load(monomials, LANES * angular.monomial[k])
            value = fma(splat(angular.coefficient[k]), monomial, value)
        store(terms, LANES * t, value)


@njit(nogil=True)
def _radial(
    row: int, block: int, square: Floats, radial: Radial, exponentials: Floats, values: Floats
) -> None:
    """Evaluate the radial functions for one r² and four sigmas: values is [function, 4], flat."""
    exponent = (row * radial.blocks + block) * radial.most * LANES
    weight = exponent * radial.chunks * RADIALS_AT_ONCE
    for g in range(radial.gaussians[row]):
        power = multiply(load(radial.exponent, exponent + g * LANES), square)
        store(exponentials, g * LANES, exp2(power))
    for chunk in range(radial.chunks):
        a = b = c = d = splat(0.0)
        for g in range(radial.gaussians[row]):
            exponential = load(exponentials, g * LANES)
            a = fma(load(radial.weight, weight), exponential, a)
            b = fma(load(radial.weight, weight + LANES), exponential, b)
            c = fma(load(radial.weight, weight + 2 * LANES), exponential, c)
            d = fma(load(radial.weight, weight + 3 * LANES), exponential, d)
            weight += RADIALS_AT_ONCE * LANES
        weight += (radial.most - radial.gaussians[row]) * RADIALS_AT_ONCE * LANES
        at = chunk * RADIALS_AT_ONCE * LANES
        store(values, at, a)
        store(values, at + LANES, b)
        store(values, at + 2 * LANES, c)
        store(values, at + 3 * LANES, d)


@njit(nogil=True)
def _add(
    values: Floats,
    terms: Floats,
    lane: int,
    radial: Radial,
    backwards: bool,
    multipoles: Floats,
    start: int,
) -> None:
    """Add radial function times polynomial to four sigmas of one atom's multipoles."""
    for f in range(len(radial.parity)):
        value = load(values, f * LANES)
        if backwards:
            value = multiply(value, splat(radial.parity[f]))
        for t in range(radial.terms[f], radial.terms[f + 1]):
            at = start + radial.component[t] * LANES
            product = fma(splat(terms[t * LANES + lane]), value, load(multipoles, at))
            store(multipoles, at, product)


@njit(nogil=True, error_model="numpy")
def _combine(
    multipoles: Floats, radial: Radial, combination: Combination, square: bool, out: Floats
) -> None:
    """Make features of multipoles: sums of squares, their roots, or signed multipoles."""
    count = len(combination.signed)
    sigmas = out.shape[1] // count
    feature = np.empty(LANES)
    for i in range(len(out)):
        for block in range(radial.blocks):
            base = (i * radial.blocks + block) * radial.components * LANES
            for f in range(count):
                value = splat(0.0)
                for k in range(combination.start[f], combination.start[f + 1]):
                    multipole = load(multipoles, base + combination.component[k] * LANES)
                    weighted = multiply(splat(combination.weight[k]), multipole)
                    value = weighted if combination.signed[f] else fma(weighted, multipole, value)
                store(feature, 0, value)
                root = not (square or combination.signed[f])
                for lane in range(min(LANES, sigmas - block * LANES)):
                    column = f * sigmas + block * LANES + lane
                    out[i, column] = sqrt(feature[lane]) if root else feature[lane]
