"""The compiled Jacobian: derivatives of every feature by every position that it depends on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from ampflow.compiled import entry, helper, inlined
from ampflow.fingerprints.gradient import PER_SQUARE, radial_slopes, separate
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
from ampflow.simd import fma, four, length, like, load, multiply, pick, store, zeros

__all__ = ["assemble", "dependences", "jacobian"]


def dependences(pairs: Pairs, atoms: int) -> tuple[Integers, Integers]:
    """Say on which atoms each atom's features depend, itself included.

    Returns
    -------
    start, moved
        Atom i depends on moved[start[i] : start[i+1]], ascending.
    """
    first, second = pairs.first[: pairs.found], pairs.second[: pairs.found]
    itself = np.arange(atoms) * (atoms + 1)
    keys = np.unique(np.concatenate([first * atoms + second, second * atoms + first, itself]))
    return np.searchsorted(keys, np.arange(atoms + 1) * atoms), keys % atoms


def assemble(data: Floats, start: Integers, moved: Integers, features: int) -> csr_array:
    """Make a sparse matrix of what `jacobian` left in `data`."""
    columns = (3 * moved[:, None] + np.arange(3)).ravel()
    rows = [np.tile(columns[3 * begin : 3 * end], features) for begin, end in pairwise(start)]
    lengths = np.repeat(3 * np.diff(start), features)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    shape = (len(lengths), 3 * (len(start) - 1))
    return csr_array((data, np.concatenate(rows), ends), shape=shape)


@entry
def jacobian(
    vector: tuple[float, ...],
    pairs: Pairs,
    numbers: Integers,
    switch: tuple[float, float],
    angular: Angular,
    radial: Radial,
    combination: Combination,
    slopes: Angular,
    start: Integers,
    moved: Integers,
    data: Floats,
    strains: Floats,
) -> bool:
    """Add derivatives to `data`: for each atom, [feature, atom it depends on, axis], flat.

    And derivatives by strain to `strains`, [atom, feature, Voigt's xx yy zz yz xz xy], unless that
    has no atoms. `start` and `moved` are what `dependences` returns, the other arguments as in
    `gradients`.
    """
    known, rows = find_rows(numbers, radial)
    if known:
        zero = zeros(vector)
        features = len(data) // (3 * len(moved))
        multipoles = sum_multipoles(zero, pairs, rows, switch, angular, radial)
        ones = np.ones((len(rows), features))
        separate(length(zero), multipoles, radial, combination, ones)
        places = start, moved, _columns(combination, radial)
        _fill(zero, switch, pairs, rows, slopes, radial, multipoles, places, data, strains)
    return known


@helper
def _columns(combination: Combination, radial: Radial) -> Integers:
    """[component, sigma] to the column that it is part of, or -1."""
    columns = np.full((radial.components, radial.width), -1)
    for f in range(len(combination.signed)):
        for k in range(combination.start[f], combination.start[f + 1]):
            for sigma in range(radial.width):
                columns[combination.component[k], sigma] = combination.column[f, sigma]
    return columns


@helper
def _find(start: Integers, moved: Integers, centre: int, atom: int) -> int:
    """Return where `atom` is among those on which `centre` depends."""
    for k in range(start[centre], start[centre + 1]):
        if moved[k] == atom:
            return k - int(start[centre])
    return -1


@helper
def _fill(
    zero: Vector,
    switch: tuple[float, float],
    pairs: Pairs,
    rows: Integers,
    slopes: Angular,
    radial: Radial,
    multipoles: Floats,
    places: tuple[Integers, Integers, Integers],
    data: Floats,
    strains: Floats,
) -> None:
    """Add what each pair contributes to the features."""
    x, y, z, one = pairs.x, pairs.y, pairs.z, four(1.0)
    parent, axis, start = slopes.parent, slopes.axis, slopes.start
    monomial, coefficient = slopes.monomial, slopes.coefficient
    monomials, terms = np.empty(4 * len(parent)), np.empty(4 * len(slopes.parity))
    exponentials = np.empty(2 * length(zero) * radial.most)
    values = np.empty(2 * length(zero) * radial.functions)
    derivatives = np.empty((len(radial.component), 3, length(zero)))
    for pair in range(pairs.found):
        if pair % 4 == 0:
            axes = load(x, pair, one), load(y, pair, one), load(z, pair, one)
            polynomials(axes, one, parent, axis, start, monomial, coefficient, monomials, terms)
        ends = pairs.first[pair], pairs.second[pair]
        if ends[0] == ends[1] and not len(strains):  # an atom and its own copy move together
            continue
        d = x[pair], y[pair], z[pair]
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        for seen in range(2):
            row = rows[ends[1 - seen]]
            for sigma in range(0, radial.width, length(zero)):
                at = (row * radial.width + sigma) * radial.most
                steep = like(r2, zero), radial.gaussians[row], at
                radial_slopes(*steep, radial.exponent, radial.weight, exponentials, values)
                lane, faded = pair % 4, fade(r2, switch)
                _differentiate(zero, d, faded, lane, terms, values, radial.function, derivatives)
                _weigh(ends[seen], sigma, seen, radial, slopes.parity, multipoles, derivatives)
                if ends[0] != ends[1]:
                    _spread((sigma, ends, seen), radial, derivatives, places, data)
                if len(strains):
                    way = 1.0 - 2.0 * seen
                    away = way * d[0], way * d[1], way * d[2]  # of the other end from this one
                    _stretch((sigma, ends[seen]), away, radial, derivatives, places[2], strains)


@inlined
def _differentiate(
    zero: Vector,
    d: tuple[float, float, float],
    faded: tuple[float, float],
    lane: int,
    terms: Floats,
    values: Floats,
    function: Integers,
    derivatives: Floats,
) -> None:
    """Differentiate each term (polynomial times radial function, faded) by d."""
    lanes = length(zero)
    flat = derivatives.reshape(-1)
    for t in range(len(function)):
        polynomial = terms[16 * t + lane]
        at = 2 * pick(function, t) * lanes
        value, slope = load(values, at, zero), load(values, at + lanes, zero)
        outward = multiply(like(faded[0] * PER_SQUARE * polynomial, zero), slope)
        outward = fma(like(faded[1] * polynomial, zero), value, outward)
        for k in range(3):
            along = multiply(like(faded[0] * terms[16 * t + 4 * (k + 1) + lane], zero), value)
            store(flat, (3 * t + k) * lanes, fma(like(d[k], zero), outward, along))


@helper
def _weigh(
    centre: int,
    sigma: int,
    seen: int,
    radial: Radial,
    parity: Floats,
    multipoles: Floats,
    derivatives: Floats,
) -> None:
    """Make the derivatives of terms, as one end sees them, those of its features."""
    lanes = derivatives.shape[2]
    base = (centre * radial.width + sigma) * radial.components
    for t in range(len(radial.component)):
        for lane in range(lanes):
            factor = multipoles[base + radial.component[t] * lanes + lane]
            factor *= -parity[4 * t] if seen else 1.0  # d is from the first to the second
            for k in range(3):
                derivatives[t, k, lane] *= factor


@helper
def _spread(
    view: tuple[int, tuple[int, int], int],
    radial: Radial,
    derivatives: Floats,
    places: tuple[Integers, Integers, Integers],
    data: Floats,
) -> None:
    """Add one end's derivatives, for the atom itself and for the one at the other end."""
    sigma, ends, seen = view
    start, moved, columns = places
    centre, other = ends[seen], ends[1 - seen]
    block, count = 3 * start[centre], start[centre + 1] - start[centre]
    itself = _find(start, moved, centre, centre)
    neighbour = _find(start, moved, centre, other)
    features = len(data) // (3 * len(moved))
    for t in range(len(radial.component)):
        for lane in range(derivatives.shape[2]):
            column = columns[radial.component[t], sigma + lane]
            if column >= 0:
                at = block * features + 3 * column * count
                for k in range(3):
                    data[at + 3 * neighbour + k] += derivatives[t, k, lane]
                    data[at + 3 * itself + k] -= derivatives[t, k, lane]


@helper
def _stretch(
    view: tuple[int, int],
    d: tuple[float, float, float],
    radial: Radial,
    derivatives: Floats,
    columns: Integers,
    strains: Floats,
) -> None:
    """Add what one end's features gain when a strain stretches d, the way to the other end."""
    sigma, centre = view
    for t in range(len(radial.component)):
        for lane in range(derivatives.shape[2]):
            column = columns[radial.component[t], sigma + lane]
            if column >= 0:
                x, y, z = derivatives[t, 0, lane], derivatives[t, 1, lane], derivatives[t, 2, lane]
                out = strains[centre, column]
                out[0] += x * d[0]
                out[1] += y * d[1]
                out[2] += z * d[2]
                out[3] += (y * d[2] + z * d[1]) / 2
                out[4] += (x * d[2] + z * d[0]) / 2
                out[5] += (x * d[1] + y * d[0]) / 2
