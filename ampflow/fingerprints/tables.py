"""The arrays that the kernel reads: polynomials, radial functions, and how features are made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from ampflow.fingerprints.densities import Densities
from ampflow.fingerprints.harmonics import Multipoles, Polynomial, Powers, derivative

__all__ = ["Angular", "Combination", "Radial", "make_angular", "make_combination", "make_radial"]
__all__ += ["make_slopes"]

_TOGETHER = 4  # radial functions computed at a time

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Angular(NamedTuple):
    """Polynomials of the displacement ("terms"), as sparse combinations of monomials.

    Monomials 0 to 3 are 1, x, y, z; a later one, m, is `parent[m]` times `axis[m]`, the numbers
    of earlier ones. Term t is the sum of `coefficient` times `monomial` over `start[t]` to
    `start[t+1]`; at -d it is `parity[t]` times what it is at d.
    """

    parent: Integers
    axis: Integers
    start: Integers
    monomial: Integers
    coefficient: Floats
    parity: Floats


class Radial(NamedTuple):
    """Radial functions of each element, and which multipoles they go to.

    Sigmas are divided into vectors, the last filled up: `width` in all. "[row, vector, any, lane]"
    is flat: for each row, one (any, lane) array after the other.

    Parameters
    ----------
    width, functions, most, components
        Sigmas and radial functions, rounded up; the most Gaussians any element has; multipole
        components.
    row_of
        Row of each atomic number, -1 without a density.
    gaussians
        Gaussians in each row's density.
    exponent
        [row, vector, Gaussian, lane]: 2**(exponent r²) is the exponential (negative).
    weight
        [row, vector, Gaussian, radial function, lane].
    own
        [row, vector, component, lane]: what an atom adds to its own multipoles.
    function, component
        Radial function that multiplies each term, and component that the product adds to.
    """

    width: int
    functions: int
    most: int
    components: int
    row_of: Integers
    gaussians: Integers
    exponent: Floats
    weight: Floats
    own: Floats
    function: Integers
    component: Integers


class Combination(NamedTuple):
    """Feature f: Σ weight mu² over start[f] to start[f+1], its root, or mu itself.

    It is mu where signed[f], and no root is taken where `square`. Its value for one sigma belongs
    into column[f, sigma], or nowhere if that is -1: such sigmas fill up a vector.
    """

    start: Integers
    component: Integers
    weight: Floats
    signed: NDArray[np.bool_]
    square: bool
    column: Integers


def make_angular(multipoles: Multipoles) -> Angular:
    """Lay out the polynomial of each term."""
    polynomials = [polynomial for terms in multipoles.terms for _, polynomial in terms]
    return _angular(polynomials, _parity(multipoles))


def make_slopes(multipoles: Multipoles) -> Angular:
    """Lay out four polynomials for each term: itself and its derivatives along x, y and z.

    `parity` is the term's, for all four: what its product with a radial function is multiplied by
    when a pair is seen from its other end, with d still counted from the first.
    """
    polynomials = [
        polynomial
        for terms in multipoles.terms
        for _, term in terms
        for polynomial in (term, *(derivative(term, axis) for axis in range(3)))
    ]
    return _angular(polynomials, np.repeat(_parity(multipoles), 4))


def _parity(multipoles: Multipoles) -> Floats:
    orders = [
        function.order
        for function, terms in zip(multipoles.radial, multipoles.terms, strict=True)
        for _ in terms
    ]
    return (-1.0) ** np.array(orders)


def _angular(polynomials: Sequence[Polynomial], parity: Floats) -> Angular:
    degree = max(sum(powers) for polynomial in polynomials for powers in polynomial)
    number: dict[Powers, int] = {(0, 0, 0): 0, (1, 0, 0): 1, (0, 1, 0): 2, (0, 0, 1): 3}
    parent, axis = [0, 0, 0, 0], [0, 1, 2, 3]
    for n in range(2, degree + 1):
        for a, b, c in product(range(n + 1), repeat=3):
            if a + b + c == n:
                along = 0 if a else 1 if b else 2
                parent.append(number[a - (along == 0), b - (along == 1), c - (along == 2)])
                axis.append(along + 1)
                number[a, b, c] = len(number)
    return Angular(
        np.array(parent),
        np.array(axis),
        _starts(polynomials),
        np.array([number[powers] for polynomial in polynomials for powers in polynomial]),
        np.array([value for polynomial in polynomials for value in polynomial.values()]),
        parity,
    )


def make_radial(
    multipoles: Multipoles, densities: Densities, sigmas: Floats, radii: Floats, lanes: int
) -> Radial:
    """Lay out radial functions.

    Parameters
    ----------
    multipoles, densities
        What is probed, with what.
    sigmas
        (sigmas,) in Å, as many as fill whole vectors.
    radii
        (sigmas,) in Å, where r is set in surface harmonics.
    lanes
        Sigmas in a vector.
    """
    elements = densities.elements
    row_of = np.full(max(elements) + 1, -1)
    row_of[list(elements)] = np.arange(len(elements))
    gaussians = [len(densities.of(number)) for number in elements]
    width = len(sigmas)
    functions = -(-len(multipoles.radial) // _TOGETHER) * _TOGETHER
    exponent = np.zeros((len(elements), max(gaussians), width))
    weight = np.zeros((len(elements), max(gaussians), functions, width))
    for row, (number, count) in enumerate(zip(elements, gaussians, strict=True)):
        exponents, weights = _of_density(multipoles, densities.of(number), sigmas, radii)
        exponent[row, :count] = exponents
        weight[row, :count, : len(multipoles.radial)] = weights.swapaxes(0, 1)
    own = np.zeros((len(elements), multipoles.components, width))
    for f, terms in enumerate(multipoles.terms):
        for component, polynomial in terms:
            own[:, component] += weight[:, :, f].sum(axis=1) * polynomial.get((0, 0, 0), 0.0)
    return Radial(
        width,
        functions,
        max(gaussians),
        multipoles.components,
        row_of,
        np.array(gaussians),
        _by_vector(exponent, lanes),
        _by_vector(weight, lanes),
        _by_vector(own, lanes),
        np.array([f for f, terms in enumerate(multipoles.terms) for _ in terms]),
        np.array([component for terms in multipoles.terms for component, _ in terms]),
    )


def _of_density(
    multipoles: Multipoles, density: Floats, sigma: Floats, radius: Floats
) -> tuple[Floats, Floats]:
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
        volume
        * (shift / radius) ** function.power
        * polyval(variance / radius**2, function.variance)
        for function in multipoles.radial
    ]
    return -alpha * shift / np.log(2), np.array(weights)


def _by_vector(table: Floats, lanes: int) -> Floats:
    """[row, ..., sigma] to [row, vector, ..., lane], flat."""
    rows, sigmas = len(table), table.shape[-1]
    vectors = [
        table[..., begin : begin + lanes].reshape(rows, -1) for begin in range(0, sigmas, lanes)
    ]
    return np.concatenate(vectors, axis=1).ravel()


def make_combination(multipoles: Multipoles, square: bool, column: Integers) -> Combination:
    """Lay out how multipoles make features, and into which columns these belong."""
    features = multipoles.features
    return Combination(
        _starts([feature.weights for feature in features]),
        np.array([component for feature in features for component in feature.weights]),
        np.array([weight for feature in features for weight in feature.weights.values()]),
        np.array([feature.signed for feature in features]),
        square,
        column,
    )


def _starts(parts: Sequence[Sequence[object] | dict[int, float] | Polynomial]) -> Integers:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
