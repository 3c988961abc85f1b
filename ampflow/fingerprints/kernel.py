"""The compiled heart: from atoms to features, one call a structure.

Pairs are taken once and serve both atoms. For four pairs at a time the polynomials are evaluated;
then, pair by pair, the radial functions for four sigmas at a time, and the products are added up.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.fingerprints.compiled import entry, helper, inlined
from ampflow.fingerprints.neighbours import Pairs, half_pairs
from ampflow.fingerprints.simd import exp2, fma, load, multiply, splat, store
from ampflow.fingerprints.tables import LANES, RADIALS_AT_ONCE, Angular, Combination, Radial

__all__ = ["UNKNOWN_ELEMENT", "features"]

UNKNOWN_ELEMENT = -10

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Vector = Any  # four float64, see simd.py


@entry
def features(
    numbers: Integers,
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


@helper
def _own(rows: Integers, radial: Radial) -> Floats:
    """[atom, sigmas / 4, component, 4], flat: what each atom's own density adds."""
    size = radial.blocks * radial.components * LANES
    multipoles = np.empty(len(rows) * size)
    for i in range(len(rows)):
        for k in range(0, size, LANES):
            store(multipoles, i * size + k, load(radial.own, rows[i] * size + k))
    return multipoles


@helper
def _add_pairs(
    pairs: Pairs, rows: Integers, angular: Angular, radial: Radial, multipoles: Floats
) -> None:
    """Add to each atom's multipoles what its neighbours contribute."""
    first, second = pairs.first, pairs.second
    x, y, z = pairs.x, pairs.y, pairs.z
    parent, axis, start = angular.parent, angular.axis, angular.start
    monomial, coefficient = angular.monomial, angular.coefficient
    gaussians, exponent, weight = radial.gaussians, radial.exponent, radial.weight
    functions, component, parity = radial.terms, radial.component, radial.parity
    stride = radial.most * LANES
    size = radial.blocks * radial.components * LANES
    monomials = np.empty(LANES * len(parent))
    terms = np.empty(LANES * (len(start) - 1))
    exponentials = np.empty(LANES * radial.most)
    values = np.empty(LANES * RADIALS_AT_ONCE * radial.chunks)
    for pair in range(pairs.found):
        lane = pair % LANES
        if lane == 0:
            axes = load(x, pair), load(y, pair), load(z, pair)
            _polynomials(axes, parent, axis, start, monomial, coefficient, monomials, terms)
        i, j = first[pair], second[pair]
        alike = rows[i] == rows[j]
        square = splat(x[pair] ** 2 + y[pair] ** 2 + z[pair] ** 2)
        for end in range(1 if alike else 2):
            row = rows[i] if end else rows[j]
            for block in range(radial.blocks):
                at = (row * radial.blocks + block) * stride
                _radial(square, gaussians[row], at, exponent, stride, weight, exponentials, values)
                for back in range(end, 2 if alike else end + 1):
                    to = (j if back else i) * size + block * radial.components * LANES
                    _add(values, terms, lane, functions, component, parity, back, multipoles, to)


@inlined
def _polynomials(
    axes: tuple[Vector, Vector, Vector],
    parent: Integers,
    axis: Integers,
    start: Integers,
    monomial: Integers,
    coefficient: Floats,
    monomials: Floats,
    terms: Floats,
) -> None:
    """Evaluate all terms for four pairs: monomials and terms are [number, 4], flat."""
    x, y, z = axes
    store(monomials, 0, splat(1.0))
    for m in range(1, len(parent)):
        lower = load(monomials, LANES * parent[m])
        along = x if axis[m] == 0 else y if axis[m] == 1 else z
        store(monomials, LANES * m, multiply(lower, along))
    for t in range(len(start) - 1):
        value = splat(0.0)
        for k in range(start[t], start[t + 1]):
            value = fma(splat(coefficient[k]), load(monomials, LANES * monomial[k]), value)
        store(terms, LANES * t, value)


@inlined
def _radial(
    square: Vector,
    gaussians: int,
    at: int,
    exponent: Floats,
    stride: int,
    weight: Floats,
    exponentials: Floats,
    values: Floats,
) -> None:
    """Evaluate the radial functions for one r² and four sigmas: values is [function, 4], flat."""
    for g in range(0, gaussians * LANES, LANES):
        store(exponentials, g, exp2(multiply(load(exponent, at + g), square)))
    functions = len(values)
    weight_at = at * (functions // LANES)
    for f in range(0, functions, RADIALS_AT_ONCE * LANES):
        a = b = c = d = splat(0.0)
        w = weight_at + f * stride // LANES
        for g in range(0, gaussians * LANES, LANES):
            exponential = load(exponentials, g)
            a = fma(load(weight, w), exponential, a)
            b = fma(load(weight, w + LANES), exponential, b)
            c = fma(load(weight, w + 2 * LANES), exponential, c)
            d = fma(load(weight, w + 3 * LANES), exponential, d)
            w += RADIALS_AT_ONCE * LANES
        store(values, f, a)
        store(values, f + LANES, b)
        store(values, f + 2 * LANES, c)
        store(values, f + 3 * LANES, d)


@inlined
def _add(
    values: Floats,
    terms: Floats,
    lane: int,
    functions: Integers,
    component: Integers,
    parity: Floats,
    back: int,
    multipoles: Floats,
    to: int,
) -> None:
    """Add radial function times polynomial to four sigmas of one atom's multipoles."""
    for f in range(len(parity)):
        value = load(values, f * LANES)
        if back:
            value = multiply(value, splat(parity[f]))
        for t in range(functions[f], functions[f + 1]):
            at = to + component[t] * LANES
            store(multipoles, at, fma(splat(terms[t * LANES + lane]), value, load(multipoles, at)))


@helper
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
