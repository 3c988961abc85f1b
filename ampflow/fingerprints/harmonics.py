"""Maxwell-Cartesian spherical harmonics, as products of a polynomial and a radial function.

The Gaussian average of a polynomial P at centre u is exp(v ∇²/2) P (u), where v is the Gaussian's
variance. So what a neighbour at d adds to a multipole is a sum of products: a polynomial of d
times a function of |d|². A solid harmonic has ∇² P = 0 and needs one product a component; a
surface harmonic one for each power of ∇² that is left. docs/fingerprints.md derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial, prod, sqrt

__all__ = [
    "MAX_ORDER",
    "Feature",
    "Multipoles",
    "Polynomial",
    "Powers",
    "RadialFunction",
    "derivative",
    "groups",
    "make_multipoles",
    "solid_multipoles",
    "surface_multipoles",
]

MAX_ORDER = 8

Powers = tuple[int, int, int]
Polynomial = dict[Powers, float]
"""Powers of x, y and z to their coefficient."""


@dataclass(frozen=True)
class RadialFunction:
    """Σ_g w_g λ_g^power (Σ_k variance[k] v_g^k) exp(-c_g |d|²), g over a density's Gaussians.

    Where the harmonics are of another radius than 1 Å, λ_g is divided by it, and v_g by its square.
    `order` is that of the multipoles that use it; they have the parity (-1)^order.
    """

    order: int
    power: int
    variance: tuple[float, ...]


@dataclass(frozen=True)
class Feature:
    """Σ weight mu² over some components; where `signed`, mu itself of its only component."""

    name: str
    weights: dict[int, float]
    signed: bool = False


@dataclass(frozen=True)
class Multipoles:
    """Which multipoles to sum, and how features are made of them.

    Parameters
    ----------
    components
        Number of multipole components.
    radial
        The radial functions.
    terms
        For each radial function: (component, polynomial) pairs that it multiplies.
    features
        The features, each for every sigma.
    probe_norm
        The probes are normalised to 1 in this many dimensions.
    """

    components: int
    radial: list[RadialFunction]
    terms: list[list[tuple[int, Polynomial]]]
    features: list[Feature]
    probe_norm: int = 3


def groups(order: int) -> list[list[Powers]]:
    """List the groups of an order (partitions, descending), each with its permutations."""
    partitions = [
        (i, j, order - i - j)
        for i in range(order, -1, -1)
        for j in range(min(i, order - i), -1, -1)
        if order - i - j <= j
    ]
    return [
        sorted({(p[0], p[1], p[2]) for p in permutations(powers)}, reverse=True)
        for powers in partitions
    ]


def make_multipoles(
    orders: Sequence[int], normalize: str, harmonics: str, square: bool
) -> Multipoles:
    """Say which multipoles and features the options of a descriptor ask for."""
    if harmonics == "solid":
        return solid_multipoles(orders)
    return surface_multipoles(orders, by_group=normalize == "group", signed=not square)


def solid_multipoles(orders: Sequence[int]) -> Multipoles:
    """Multipoles of real solid harmonics, one feature an order.

    n! (2n-1)!! times the 2n+1 squares, in Racah's normalisation, is the sum of the squares of all
    3^n Cartesian components.
    """
    components = 0
    radial, terms, features = [], [], []
    harmonics = _real_solid_harmonics(max(orders))
    for order in orders:
        members = range(components, components + 2 * order + 1)
        components += len(members)
        radial.append(RadialFunction(order, order, (1.0,)))
        terms.append(list(zip(members, harmonics[order], strict=True)))
        weight = float(factorial(order) * _double_factorial(2 * order - 1))
        features.append(Feature(f"order{order}", dict.fromkeys(members, weight)))
    return Multipoles(components, radial, terms, features)


def surface_multipoles(orders: Sequence[int], *, by_group: bool, signed: bool) -> Multipoles:
    """Multipoles of Cartesian surface harmonics, a feature an order or a group.

    Parameters
    ----------
    orders
        Orders, each once.
    by_group
        One feature a group instead of one an order.
    signed
        Keep the sign of a group's only component.
    """
    components = 0
    radial: list[RadialFunction] = []
    terms: list[list[tuple[int, Polynomial]]] = []
    features = []
    for order in orders:
        divided = groups(order)
        powers = [member for group in divided for member in group]
        polynomials: list[Polynomial] = [{member: 1.0} for member in powers]
        for laplacians in range(order // 2 + 1):
            radial.append(_surface_radial(order, laplacians))
            terms.append([(components + t, p) for t, p in enumerate(polynomials) if p])
            polynomials = [_laplacian(p) for p in polynomials]
        features += _surface_features(order, divided, components, by_group, signed)
        components += len(powers)
    return Multipoles(components, radial, terms, features, 1 if by_group else 3)


def derivative(polynomial: Polynomial, axis: int) -> Polynomial:
    """Differentiate along x, y or z (axis 0, 1 or 2)."""
    result: Polynomial = {}
    for powers, coefficient in polynomial.items():
        if powers[axis]:
            lowered = [power - (k == axis) for k, power in enumerate(powers)]
            result[lowered[0], lowered[1], lowered[2]] = coefficient * powers[axis]
    return result


def _surface_features(
    order: int, divided: list[list[Powers]], first: int, by_group: bool, signed: bool
) -> list[Feature]:
    if not by_group:
        members = enumerate((member for group in divided for member in group), first)
        weights = {t: factorial(order) / prod(map(factorial, member)) for t, member in members}
        return [Feature(f"order{order}", weights)]
    features = []
    for number, group in enumerate(divided, 1):
        weights = dict.fromkeys(range(first, first + len(group)), 1.0)
        name = f"order{order}-group{number}"
        features.append(Feature(name, weights, signed=signed and len(group) == 1))
        first += len(group)
    return features


def _surface_radial(order: int, laplacians: int) -> RadialFunction:
    """Radial function that multiplies ∇^(2q) x^i y^j z^k, q = laplacians.

    The harmonic itself is Σ_m (-1)^m (2(n-m)-1)!! / (2^m m!) rs^(2m-n) ∇^2m x^i y^j z^k (rs
    wherever r occurs, and divided by rs^n), its average Σ_k (v/2)^k / k! ∇^2k of that. With
    m + k = q the powers of rs are those of (λ/rs)^(n-2q) (v/rs²)^k.
    """
    variance = []
    for averaged in range(laplacians + 1):
        own = laplacians - averaged
        harmonic = (-1) ** own * _double_factorial(2 * (order - own) - 1) / factorial(own)
        variance.append(harmonic / factorial(averaged) / 2**laplacians)
    return RadialFunction(order, order - 2 * laplacians, tuple(variance))


def _real_solid_harmonics(max_order: int) -> list[list[Polynomial]]:
    """Real solid harmonics of orders 0 to max_order, Σ_m R_nm² = r^2n.

    By the recurrences of Helgaker, Jørgensen and Olsen, Molecular Electronic-Structure Theory,
    section 6.4.2. Within an order: m = 0, then the cosine and sine parts of m = 1, 2, ...
    """
    x, y, z = ({(1, 0, 0): 1.0}, {(0, 1, 0): 1.0}, {(0, 0, 1): 1.0})
    square: Polynomial = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}
    found: dict[tuple[int, int], Polynomial] = {(0, 0): {(0, 0, 0): 1.0}}
    for n in range(1, max_order + 1):
        scale = 1.0 if n == 1 else sqrt((2 * n - 1) / (2 * n))
        cosine, sine = found[n - 1, n - 1], found.get((n - 1, 1 - n), {})
        for m in range(n):
            for sign in (1, -1) if m else (1,):
                climbed = _times(z, found[n - 1, sign * m])
                above = (2 * n - 1) / sqrt((n - m) * (n + m))
                below = -sqrt((n + m - 1) * (n - m - 1) / ((n + m) * (n - m)))
                earlier = _times(square, found.get((n - 2, sign * m), {}))
                found[n, sign * m] = _plus(climbed, above, earlier, below)
        if n == 1:
            found[1, 1], found[1, -1] = x, y
        else:
            found[n, n] = _plus(_times(x, cosine), scale, _times(y, sine), -scale)
            found[n, -n] = _plus(_times(y, cosine), scale, _times(x, sine), scale)
    return [
        [found[n, 0]] + [found[n, sign * m] for m in range(1, n + 1) for sign in (1, -1)]
        for n in range(max_order + 1)
    ]


def _plus(p: Polynomial, a: float, q: Polynomial, b: float) -> Polynomial:
    total = {k: a * p.get(k, 0.0) + b * q.get(k, 0.0) for k in {**p, **q}}
    return {k: value for k, value in total.items() if value}


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for (a, b, c), left in p.items():
        for (d, e, f), right in q.items():
            key = (a + d, b + e, c + f)
            result[key] = result.get(key, 0.0) + left * right
    return result


def _laplacian(p: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for axis in range(3):
        result = _plus(result, 1.0, derivative(derivative(p, axis), axis), 1.0)
    return result


def _double_factorial(n: int) -> int:
    return prod(range(n, 0, -2))
