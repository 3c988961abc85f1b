"""The arrays that the kernel reads: polynomials, radial functions, and how features are made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from ampflow.fingerprints.densities import Densities
from ampflow.fingerprints.harmonics import Multipoles, Polynomial, Powers

__all__ = ["LANES", "RADIALS_AT_ONCE", "Angular", "Combination", "Radial", "make_tables"]

LANES = 4  # sigmas are computed four at a time: simd.LANES, without importing numba
RADIALS_AT_ONCE = 4  # radial functions that are summed over a density's Gaussians in registers

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Angular(NamedTuple):
    """Polynomials of the displacement, as sparse combinations of monomials.

    Monomial m is monomial `parent[m]` times x, y or z (`axis[m]` 0, 1 or 2); number 0 is 1.
    Term t is the sum of `coefficient` times `monomial` over `start[t]` to `start[t+1]`.
    """

    parent: Integers
    axis: Integers
    start: Integers
    monomial: Integers
    coefficient: Floats


class Radial(NamedTuple):
    """Radial functions of each element, and which multipoles they go to.

    Parameters
    ----------
    blocks, chunks, most, components
        Sigmas / 4 and radial functions / 4, rounded up; the most Gaussians any element has;
        multipole components.
    row_of
        Row of each atomic number, -1 without a density.
    gaussians
        Gaussians in each row's density.
    exponent
        [row, sigmas / 4, Gaussian, 4], flat: 2**(exponent r²) is the exponential (negative).
    weight
        [row, sigmas / 4, radial functions / 4, Gaussian, 4 radial functions, 4], flat.
    own
        [row, sigmas / 4, component, 4], flat: what an atom adds to its own multipoles.
    terms
        Where each radial function's terms begin.
    component
        Component to which each term adds.
    parity
        (-1)^order of each radial function.
    """

    blocks: int
    chunks: int
    most: int
    components: int
    row_of: Integers
    gaussians: Integers
    exponent: Floats
    weight: Floats
    own: Floats
    terms: Integers
    component: Integers
    parity: Floats


class Combination(NamedTuple):
    """Feature f: Σ weight mu², or mu itself where signed[f], over start[f] to start[f+1]."""

    start: Integers
    component: Integers
    weight: Floats
    signed: NDArray[np.bool_]


def make_tables(
    multipoles: Multipoles, densities: Densities, sigmas: Sequence[float]
) -> tuple[Angular, Radial, Combination]:
    """Lay out everything that depends on the descriptor and not on a structure."""
    polynomials = [polynomial for terms in multipoles.terms for _, polynomial in terms]
    return _angular(polynomials), _radial(multipoles, densities, sigmas), _combination(multipoles)


def _angular(polynomials: Sequence[Polynomial]) -> Angular:
    degree = max(sum(powers) for polynomial in polynomials for powers in polynomial)
    number: dict[Powers, int] = {(0, 0, 0): 0}
    parent, axis = [0], [0]
    for n in range(1, degree + 1):
        for a, b, c in product(range(n + 1), repeat=3):
            if a + b + c == n:
                along = 0 if a else 1 if b else 2
                lower = (a - (along == 0), b - (along == 1), c - (along == 2))
                parent.append(number[lower])
                axis.append(along)
                number[a, b, c] = len(number)
    return Angular(
        np.array(parent),
        np.array(axis),
        _starts(polynomials),
        np.array([number[powers] for polynomial in polynomials for powers in polynomial]),
        np.array([value for polynomial in polynomials for value in polynomial.values()]),
    )


def _radial(multipoles: Multipoles, densities: Densities, sigmas: Sequence[float]) -> Radial:
    elements = densities.elements
    row_of = np.full(max(elements) + 1, -1)
    row_of[list(elements)] = np.arange(len(elements))
    gaussians = [len(densities.of(number)) for number in elements]
    blocks = -(-len(sigmas) // LANES)
    chunks = -(-len(multipoles.radial) // RADIALS_AT_ONCE)
    width = np.full(blocks * LANES, sigmas[-1], dtype=np.float64)  # the last one fills up
    width[: len(sigmas)] = sigmas
    exponent = np.zeros((len(elements), max(gaussians), len(width)))
    weight = np.zeros((len(elements), chunks * RADIALS_AT_ONCE, max(gaussians), len(width)))
    for row, number in enumerate(elements):
        exponent[row, : gaussians[row]], values = _of_density(
            multipoles, densities.of(number), width
        )
        weight[row, : len(multipoles.radial), : gaussians[row]] = values
    at_zero = weight.sum(axis=2)
    own = np.zeros((len(elements), multipoles.components, len(width)))
    for f, terms in enumerate(multipoles.terms):
        for component, polynomial in terms:
            own[:, component] += at_zero[:, f] * polynomial.get((0, 0, 0), 0.0)
    split = (len(elements), chunks, RADIALS_AT_ONCE, max(gaussians), blocks, LANES)
    return Radial(
        blocks,
        chunks,
        max(gaussians),
        multipoles.components,
        row_of,
        np.array(gaussians),
        _lanes_last(exponent),
        np.ascontiguousarray(weight.reshape(split).transpose(0, 4, 1, 3, 2, 5)).ravel(),
        _lanes_last(own),
        _starts(multipoles.terms),
        np.array([component for terms in multipoles.terms for component, _ in terms]),
        np.array([(-1.0) ** function.order for function in multipoles.radial]),
    )


def _of_density(multipoles: Multipoles, density: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Exponents (Gaussians, sigmas) and weights (radial functions, Gaussians, sigmas).

    The product of the probe exp(-α r²) and a Gaussian exp(-β |r-d|²) is a Gaussian of exponent
    γ = α + β around λ d, λ = β/γ, with the factor exp(-α λ |d|²).
    """
    amplitude, beta = density[:, :1], density[:, 1:]
    alpha = 1 / (2 * sigma**2)
    gamma = alpha + beta
    shift, variance = beta / gamma, 1 / (2 * gamma)
    volume = amplitude * (np.pi / gamma) ** 1.5 * (alpha / np.pi) ** (multipoles.probe_norm / 2)
    weights = [
        volume * shift**function.power * polyval(variance, function.variance)
        for function in multipoles.radial
    ]
    return -alpha * shift / np.log(2), np.array(weights)


def _lanes_last(table: Floats) -> Floats:
    """[row, any, sigma] to [row, sigma / 4, any, 4], flat."""
    rows, columns, sigmas = table.shape
    split = table.reshape(rows, columns, sigmas // LANES, LANES)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).ravel()


def _combination(multipoles: Multipoles) -> Combination:
    features = multipoles.features
    return Combination(
        _starts([feature.weights for feature in features]),
        np.array([component for feature in features for component in feature.weights]),
        np.array([weight for feature in features for weight in feature.weights.values()]),
        np.array([feature.signed for feature in features]),
    )


def _starts(parts: Sequence[Sequence[object] | dict[int, float] | Polynomial]) -> Integers:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
