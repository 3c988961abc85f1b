"""The compiled heart: from atoms to features, one call a structure.

Pairs are taken once and serve both atoms. For four pairs at a time the polynomials are evaluated;
then, pair by pair, the radial functions for eight sigmas at a time, and the products are added up.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.exponential import exp2
from ampflow.fingerprints.neighbours import Pairs
from ampflow.fingerprints.tables import Angular, Combination, Radial
from ampflow.simd import (
    fma,
    four,
    length,
    like,
    load,
    multiply,
    pick,
    root,
    store,
    zeros,
)

__all__ = ["fade", "features", "find_rows", "polynomials", "sum_multipoles"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Vector = Any  # four or eight float64, see simd.py


@entry
def features(
    vector: tuple[float, ...],
    pairs: Pairs,
    numbers: Integers,
    switch: tuple[float, float],
    angular: Angular,
    radial: Radial,
    combination: Combination,
    out: Floats,
) -> bool:
    """Fill the columns of `out` (atoms, any) that `combination` names.

    Neighbours fade between the two distances of `switch`; where these are equal, the cut is hard.
    `vector` are zeros, as many as a vector has lanes. Returns whether all elements have a density.
    """
    known, rows = find_rows(numbers, radial)
    if known:
        zero = zeros(vector)
        multipoles = sum_multipoles(zero, pairs, rows, switch, angular, radial)
        _combine(zero, multipoles, radial, combination, out)
    return known


@helper
def find_rows(numbers: Integers, radial: Radial) -> tuple[bool, Integers]:
    """Return whether all elements have a density, and their rows in the tables."""
    rows = np.empty(len(numbers), np.int64)
    for i in range(len(numbers)):
        if not 0 <= numbers[i] < len(radial.row_of) or radial.row_of[numbers[i]] < 0:
            return False, rows
        rows[i] = radial.row_of[numbers[i]]
    return True, rows


@helper
def fade(square: float, switch: tuple[float, float]) -> tuple[float, float]:
    """Return the share of a neighbour that counts at r², and its slope in r, divided by r.

    With x from 0 at the onset to 1 at the cutoff: 1 - x³ (10 - 15 x + 6 x²), whose first and second
    derivatives vanish at both ends.
    """
    onset, cutoff = switch
    if square <= onset * onset:
        return 1.0, 0.0
    r = sqrt(square)
    x = (r - onset) / (cutoff - onset)
    slope = -30.0 * x * x * (1.0 - x) * (1.0 - x) / (cutoff - onset)
    return 1.0 - x * x * x * (10.0 - 15.0 * x + 6.0 * x * x), slope / r


@helper
def sum_multipoles(
    zero: Vector,
    pairs: Pairs,
    rows: Integers,
    switch: tuple[float, float],
    angular: Angular,
    radial: Radial,
) -> Floats:
    """Return each atom's multipoles, laid out as in `Radial.own`."""
    multipoles = _own_multipoles(zero, rows, radial)
    first, second, x, y, z = pairs.first, pairs.second, pairs.x, pairs.y, pairs.z
    parent, axis, start = angular.parent, angular.axis, angular.start
    monomial, coefficient, parity = angular.monomial, angular.coefficient, angular.parity
    exponent, weight = radial.exponent, radial.weight
    gaussians, function, component = radial.gaussians, radial.function, radial.component
    width, most, components = radial.width, radial.most, radial.components
    monomials = np.empty(4 * len(parent))
    terms = np.empty(8 * len(parity))
    exponentials = np.empty(length(zero) * most)
    values = np.empty(length(zero) * radial.functions)
    share = np.empty(4)
    for pair in range(pairs.found):
        if pair % 4 == 0:
            for lane in range(4):
                e = pair + lane
                share[lane], _ = fade(x[e] * x[e] + y[e] * y[e] + z[e] * z[e], switch)
            axes = load(x, pair, four(0.0)), load(y, pair, four(0.0)), load(z, pair, four(0.0))
            factor = load(share, 0, four(0.0))
            polynomials(axes, factor, parent, axis, start, monomial, coefficient, monomials, terms)
            _reverse(parity, terms)
        i, j = pick(first, pair), pick(second, pair)
        alike = pick(rows, i) == pick(rows, j)
        square = like(x[pair] * x[pair] + y[pair] * y[pair] + z[pair] * z[pair], zero)
        for seen in range(1 if alike else 2):
            row = pick(rows, i if seen else j)
            for sigma in range(0, width, length(zero)):
                at = (row * width + sigma) * most
                _radial(square, pick(gaussians, row), at, exponent, weight, exponentials, values)
                for back in range(seen, 2 if alike else seen + 1):
                    to = ((j if back else i) * width + sigma) * components
                    term = back * 4 * len(parity) + pair % 4
                    _add(zero, values, terms, term, function, component, multipoles, to)
    return multipoles


@helper
def _own_multipoles(zero: Vector, rows: Integers, radial: Radial) -> Floats:
    """Begin with what each atom's own density adds."""
    own = radial.own
    size = radial.components * radial.width
    multipoles = np.empty(len(rows) * size)
    for i in range(len(rows)):
        for k in range(0, size, length(zero)):
            store(multipoles, i * size + k, load(own, rows[i] * size + k, zero))
    return multipoles


@inlined
def polynomials(
    axes: tuple[Vector, Vector, Vector],
    factor: Vector,
    parent: Integers,
    axis: Integers,
    start: Integers,
    monomial: Integers,
    coefficient: Floats,
    monomials: Floats,
    terms: Floats,
) -> None:
    """Evaluate all polynomials, times a factor, for four pairs: terms is [term, 4], flat."""
    one = four(1.0)
    store(monomials, 0, one)
    for k in range(3):
        store(monomials, 4 + 4 * k, axes[k])
    for m in range(4, len(parent)):
        lower = load(monomials, 4 * pick(parent, m), one)
        along = load(monomials, 4 * pick(axis, m), one)
        store(monomials, 4 * m, multiply(lower, along))
    for t in range(len(start) - 1):
        value = four(0.0)
        for k in range(pick(start, t), pick(start, t + 1)):
            powers = load(monomials, 4 * pick(monomial, k), one)
            value = fma(four(pick(coefficient, k)), powers, value)
        store(terms, 4 * t, multiply(value, factor))


@inlined
def _reverse(parity: Floats, terms: Floats) -> None:
    """Put what the polynomials are at -d after what they are at d."""
    count = 4 * len(parity)
    for t in range(len(parity)):
        there = load(terms, 4 * t, four(0.0))
        store(terms, count + 4 * t, multiply(there, four(pick(parity, t))))


@inlined
def _radial(
    square: Vector,
    gaussians: int,
    at: int,
    exponent: Floats,
    weight: Floats,
    exponentials: Floats,
    values: Floats,
) -> None:
    """Evaluate all radial functions for one r² and the sigmas of a vector."""
    zero, lanes = like(0.0, square), length(square)
    functions = len(values) // lanes
    from_weight = at * functions
    for f in range(0, functions, 4):
        a = b = c = d = zero
        for g in range(gaussians):
            if f == 0:
                exponential = exp2(multiply(load(exponent, at + g * lanes, square), square))
                store(exponentials, g * lanes, exponential)
            else:
                exponential = load(exponentials, g * lanes, zero)
            w = from_weight + (g * functions + f) * lanes
            a = fma(load(weight, w, zero), exponential, a)
            b = fma(load(weight, w + lanes, zero), exponential, b)
            c = fma(load(weight, w + 2 * lanes, zero), exponential, c)
            d = fma(load(weight, w + 3 * lanes, zero), exponential, d)
        store(values, f * lanes, a)
        store(values, (f + 1) * lanes, b)
        store(values, (f + 2) * lanes, c)
        store(values, (f + 3) * lanes, d)


@inlined
def _add(
    vector: Vector,
    values: Floats,
    terms: Floats,
    first: int,
    function: Integers,
    component: Integers,
    multipoles: Floats,
    to: int,
) -> None:
    """Add radial functions times polynomials to an atom's multipoles, for a vector of sigmas."""
    lanes = length(vector)
    for t in range(len(function)):
        at = to + pick(component, t) * lanes
        value = load(values, pick(function, t) * lanes, vector)
        polynomial = like(pick(terms, first + 4 * t), vector)
        store(multipoles, at, fma(polynomial, value, load(multipoles, at, vector)))


@helper
def _combine(
    zero: Vector, multipoles: Floats, radial: Radial, combination: Combination, out: Floats
) -> None:
    """Make features of multipoles: sums of squares, roots, signed multipoles."""
    start, component, weight = combination.start, combination.component, combination.weight
    signed, column = combination.signed, combination.column
    lanes = length(zero)
    values = np.empty(lanes)
    for i in range(len(out)):
        for sigma in range(0, radial.width, lanes):
            base = (i * radial.width + sigma) * radial.components
            for f in range(len(signed)):
                value = zero
                for k in range(pick(start, f), pick(start, f + 1)):
                    multipole = load(multipoles, base + pick(component, k) * lanes, zero)
                    weighted = multiply(like(pick(weight, k), zero), multipole)
                    value = weighted if signed[f] else fma(weighted, multipole, value)
                if not (combination.square or signed[f]):
                    value = root(value)
                store(values, 0, value)
                for lane in range(lanes):
                    if column[f, sigma + lane] >= 0:
                        out[i, column[f, sigma + lane]] = values[lane]
