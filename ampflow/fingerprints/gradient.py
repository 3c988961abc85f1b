"""The compiled reverse: from derivatives by features to derivatives by positions and strain.

With g = dE/dμ, a pair's part of the gradient is Σ g (∇P F + P F' 2d) over the terms (a polynomial P
times a radial function F), sigmas, and both of its ends. F', by d², has the same exponentials as F.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.exponential import exp2
from ampflow.fingerprints.kernel import (
    Floats,
    Integers,
    Vector,
    fade,
    find_rows,
    polynomials,
    sum_multipoles,
)
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
    store,
    total,
    zeros,
)

__all__ = ["PER_SQUARE", "gradients", "radial_slopes", "separate"]

PER_SQUARE = 2.0 * log(2.0)  # d/d(d²) of 2^(e d²) is e ln 2; d(d²)/dd is 2 d


@entry
def gradients(
    vector: tuple[float, ...],
    pairs: Pairs,
    numbers: Integers,
    switch: tuple[float, float],
    angular: Angular,
    radial: Radial,
    combination: Combination,
    slopes: Angular,
    weights: Floats,
    gradient: Floats,
    strain: Floats,
) -> bool:
    """Add what `weights` = dE/dfeatures makes of `gradient` (atoms, 3) and `strain` (3, 3).

    `slopes` has four polynomials for each term: itself and its derivatives along x, y, z. The
    other arguments, and what is returned, are as in `features`.
    """
    known, rows = find_rows(numbers, radial)
    if known:
        zero = zeros(vector)
        multipoles = sum_multipoles(zero, pairs, rows, switch, angular, radial)
        separate(length(zero), multipoles, radial, combination, weights)
        forces = _pull(zero, switch, pairs, rows, slopes, radial, multipoles)
        _collect(pairs, forces, gradient, strain)
    return known


@helper
def separate(
    lanes: int, multipoles: Floats, radial: Radial, combination: Combination, weights: Floats
) -> None:
    """Replace multipoles by dE/dμ. Where a root is zero it has no slope, and 0 is taken."""
    start, component = combination.start, combination.component
    for i in range(len(weights)):
        for sigma in range(radial.width):
            base = (i * radial.width + sigma // lanes * lanes) * radial.components + sigma % lanes
            for f in range(len(combination.signed)):
                begin, end = start[f], start[f + 1]
                column = combination.column[f, sigma]
                factor = weights[i, column] if column >= 0 else 0.0
                if not (combination.square or combination.signed[f]):
                    norm = 0.0
                    for k in range(begin, end):
                        mu = multipoles[base + component[k] * lanes]
                        norm += combination.weight[k] * mu * mu
                    factor *= 0.5 / sqrt(norm) if norm > 0.0 else 0.0
                for k in range(begin, end):
                    at = base + component[k] * lanes
                    own = 1.0 if combination.signed[f] else 2.0 * multipoles[at]
                    multipoles[at] = factor * combination.weight[k] * own


@helper
def _pull(
    zero: Vector,
    switch: tuple[float, float],
    pairs: Pairs,
    rows: Integers,
    slopes: Angular,
    radial: Radial,
    multipoles: Floats,
) -> Floats:
    """Return each pair's dE/dd, (pairs, 3)."""
    x, y, z, one = pairs.x, pairs.y, pairs.z, four(1.0)
    parent, axis, start = slopes.parent, slopes.axis, slopes.start
    monomial, coefficient, parity = slopes.monomial, slopes.coefficient, slopes.parity
    exponent, weight = radial.exponent, radial.weight
    gaussians, function, component = radial.gaussians, radial.function, radial.component
    width, most, components = radial.width, radial.most, radial.components
    monomials = np.empty(4 * len(parent))
    terms = np.empty(4 * len(parity))
    exponentials = np.empty(2 * length(zero) * most)
    values = np.empty(2 * length(zero) * radial.functions)
    forces = np.empty((pairs.found, 3))
    for pair in range(pairs.found):
        if pair % 4 == 0:
            axes = load(x, pair, one), load(y, pair, one), load(z, pair, one)
            polynomials(axes, one, parent, axis, start, monomial, coefficient, monomials, terms)
        i, j = pick(pairs.first, pair), pick(pairs.second, pair)
        alike = pick(rows, i) == pick(rows, j)
        square = x[pair] * x[pair] + y[pair] * y[pair] + z[pair] * z[pair]
        sums = zero, zero, zero, zero, zero
        for seen in range(1 if alike else 2):
            row = pick(rows, i if seen else j)
            for sigma in range(0, width, length(zero)):
                at = (row * width + sigma) * most
                steep = like(square, zero), pick(gaussians, row), at
                radial_slopes(*steep, exponent, weight, exponentials, values)
                near = (i * width + sigma) * components if alike or not seen else -1
                far = (j * width + sigma) * components if alike or seen else -1
                lane = pair % 4
                sums = _dot(
                    sums, near, far, values, terms, lane, function, component, parity, multipoles
                )
        share, slope = fade(square, switch)
        along = share * PER_SQUARE * total(sums[3]) + slope * total(sums[4])
        forces[pair, 0] = share * total(sums[0]) + along * x[pair]
        forces[pair, 1] = share * total(sums[1]) + along * y[pair]
        forces[pair, 2] = share * total(sums[2]) + along * z[pair]
    return forces


@inlined
def radial_slopes(
    square: Vector,
    gaussians: int,
    at: int,
    exponent: Floats,
    weight: Floats,
    exponentials: Floats,
    values: Floats,
) -> None:
    """Evaluate radial functions, each followed by its derivative by r² (but for ln 2)."""
    zero, lanes = like(0.0, square), length(square)
    functions = len(values) // (2 * lanes)
    for f in range(0, functions, 2):
        a = b = da = db = zero
        for g in range(gaussians):
            if f == 0:
                steepness = load(exponent, at + g * lanes, zero)
                value = exp2(multiply(steepness, square))
                slope = multiply(steepness, value)
                store(exponentials, 2 * g * lanes, value)
                store(exponentials, (2 * g + 1) * lanes, slope)
            else:
                value = load(exponentials, 2 * g * lanes, zero)
                slope = load(exponentials, (2 * g + 1) * lanes, zero)
            w = at * functions + (g * functions + f) * lanes
            a = fma(load(weight, w, zero), value, a)
            da = fma(load(weight, w, zero), slope, da)
            b = fma(load(weight, w + lanes, zero), value, b)
            db = fma(load(weight, w + lanes, zero), slope, db)
        store(values, 2 * f * lanes, a)
        store(values, (2 * f + 1) * lanes, da)
        store(values, (2 * f + 2) * lanes, b)
        store(values, (2 * f + 3) * lanes, db)


@inlined
def _dot(
    sums: tuple[Vector, Vector, Vector, Vector, Vector],
    near: int,
    far: int,
    values: Floats,
    terms: Floats,
    lane: int,
    function: Integers,
    component: Integers,
    parity: Floats,
    multipoles: Floats,
) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Add Σ g ∇P F (three), Σ g P F' and Σ g P F, from dE/dμ of either end (-1: without)."""
    along_x, along_y, along_z, outward, whole = sums
    zero, lanes = like(0.0, whole), length(whole)
    for t in range(len(function)):
        shift = pick(component, t) * lanes
        g = zero
        if near >= 0:
            g = load(multipoles, near + shift, zero)
        if far >= 0:
            g = fma(like(pick(parity, 4 * t), zero), load(multipoles, far + shift, zero), g)
        at = 2 * pick(function, t) * lanes
        value, slope = load(values, at, zero), load(values, at + lanes, zero)
        p = 16 * t + lane
        value, polynomial = multiply(g, value), like(pick(terms, p), zero)
        along_x = fma(like(pick(terms, p + 4), zero), value, along_x)
        along_y = fma(like(pick(terms, p + 8), zero), value, along_y)
        along_z = fma(like(pick(terms, p + 12), zero), value, along_z)
        outward = fma(polynomial, multiply(g, slope), outward)
        whole = fma(polynomial, value, whole)
    return along_x, along_y, along_z, outward, whole


@helper
def _collect(pairs: Pairs, forces: Floats, gradient: Floats, strain: Floats) -> None:
    """Give each pair's dE/dd to its atoms, and to the strain that stretches d."""
    for pair in range(pairs.found):
        away = pairs.x[pair], pairs.y[pair], pairs.z[pair]
        for k in range(3):
            gradient[pairs.second[pair], k] += forces[pair, k]
            gradient[pairs.first[pair], k] -= forces[pair, k]
            for c in range(3):
                strain[k, c] += forces[pair, k] * away[c]
