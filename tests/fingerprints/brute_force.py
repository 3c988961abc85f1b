"""GMP features from their definition, slowly: sums over images and Gauss-Hermite quadrature.

Shares nothing with ampflow: no neighbour list, no harmonics, no closed form of an integral. In
extended precision where the machine has it, for amplitudes that cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil, comb, factorial, prod, sqrt

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

Array = NDArray[np.float64]


def brute_force(
    atoms: Atoms,
    gaussians: Mapping[int, Array],
    sigmas: Sequence[float] | Mapping[int, Sequence[float]],
    orders: Sequence[int],
    cutoff: float,
    normalize: str,
    harmonics: str,
    square: bool,
    rs: float = 1.0,
    rs_setup: str = "constant",
) -> Array:
    """(atoms, features), columns as in AMPTorch: orders, groups, sigmas (fastest)."""
    widths = sigmas if isinstance(sigmas, Mapping) else dict.fromkeys(orders, sigmas)
    rows = []
    for i in range(len(atoms)):
        near = neighbours(atoms, i, cutoff)
        blocks = []
        for order in orders:
            columns = []
            for sigma in widths[order]:
                surface = rs * (sigma if rs_setup == "scale" else 1.0)
                radius = None if harmonics == "solid" else surface
                columns.append(features(near, gaussians, order, sigma, normalize, radius, square))
            blocks.append(np.array(columns).T.ravel())
        rows.append(np.concatenate(blocks))
    return np.array(rows)


def neighbours(atoms: Atoms, i: int, cutoff: float) -> dict[int, Array]:
    """Displacements (any, 3) of all images nearer than the cutoff, itself too, by element."""
    periodic = [vector for vector, on in zip(atoms.cell.array, atoms.pbc, strict=True) if on]
    spread = np.ptp(atoms.positions, axis=0)
    reach = cutoff + float(np.linalg.norm(spread))
    # |sum s_k a_k| >= |s_k| times the smallest singular value.
    smallest = np.linalg.svd(np.array(periodic))[1].min() if periodic else np.inf
    most = ceil(reach / smallest)
    shifts = [
        sum((s * v for s, v in zip(steps, periodic, strict=True)), np.zeros(3))
        for steps in product(range(-most, most + 1), repeat=len(periodic))
    ]
    away = atoms.positions[None] + np.array(shifts)[:, None] - atoms.positions[i]
    copy, index = np.nonzero(np.linalg.norm(away, axis=2) < cutoff)
    number = atoms.numbers[index]
    return {int(n): away[copy, index][number == n] for n in set(number)}


def features(
    near: Mapping[int, Array],
    gaussians: Mapping[int, Array],
    order: int,
    sigma: float,
    normalize: str,
    radius: float | None,
    square: bool,
) -> list[float]:
    powers = [p for p in product(range(order, -1, -1), repeat=3) if sum(p) == order]
    mu = dict(zip(powers, multipoles(near, gaussians, powers, sigma, radius), strict=True))
    if normalize == "order":
        total = sum(factorial(order) / prod(map(factorial, p)) * mu[p] ** 2 for p in powers)
        return [float(total if square else sqrt(total))]
    result = []
    for leader in (p for p in powers if p[0] >= p[1] >= p[2]):
        members = [mu[p] * (2 * np.pi * sigma**2) for p in powers if sorted(p) == sorted(leader)]
        total = sum(m**2 for m in members)
        alone = len(members) == 1
        result.append(float(total if square else members[0] if alone else sqrt(total)))
    return result


def multipoles(
    near: Mapping[int, Array],
    gaussians: Mapping[int, Array],
    powers: list[tuple[int, int, int]],
    sigma: float,
    radius: float | None,
) -> Array:
    """Integrals of probe times harmonic times density, one for each (i, j, k)."""
    order = sum(powers[0])
    nodes, weights = gauss_hermite(order // 2 + 1)
    cube = np.array(list(product(nodes, repeat=3)))
    weight = np.array([prod(w) for w in product(weights, repeat=3)])
    alpha = 1 / (2 * np.longdouble(sigma) ** 2)
    total = np.zeros(len(powers), np.longdouble)
    for number, displacements in near.items():
        away = displacements.astype(np.longdouble)
        for amplitude, beta in gaussians[number].astype(np.longdouble):
            gamma = alpha + beta
            points = beta / gamma * away[:, None] + cube / np.sqrt(gamma)
            decay = np.exp(-alpha * beta / gamma * np.sum(away**2, axis=1))
            height = amplitude * (alpha / gamma) ** 1.5 * np.outer(decay, weight)
            for k, p in enumerate(powers):
                total[k] += np.sum(height * harmonic(p, points, radius))
    return total


def gauss_hermite(count: int) -> tuple[Array, Array]:
    """Nodes and weights for the average over exp(-x²), numpy's improved by Newton's method."""
    start, _ = np.polynomial.hermite.hermgauss(count)
    nodes = start.astype(np.longdouble)
    one, two = (np.eye(count + 1, dtype=np.longdouble)[k] for k in (count, count - 1))
    for _ in range(3):
        slope = 2 * count * np.polynomial.hermite.hermval(nodes, two)
        nodes = nodes - np.polynomial.hermite.hermval(nodes, one) / slope
    lower = np.polynomial.hermite.hermval(nodes, two)
    return nodes, 2 ** (count - 1) * factorial(count) / (count * lower) ** 2


def harmonic(powers: tuple[int, int, int], points: Array, surface: float | None) -> Array:
    """Maxwell-Cartesian harmonic at some points, solid or divided by r^n with r constant."""
    order = sum(powers)
    radius = np.linalg.norm(points, axis=-1) if surface is None else surface
    value = np.zeros(points.shape[:-1], np.longdouble)
    for removed in product(*(range(p // 2 + 1) for p in powers)):
        m = sum(removed)
        factor = (-1) ** m * prod(range(2 * (order - m) - 1, 0, -2))
        for p, q in zip(powers, removed, strict=True):
            factor *= comb(p, 2 * q) * prod(range(2 * q - 1, 0, -2))
        left = [p - 2 * q for p, q in zip(powers, removed, strict=True)]
        value += factor * np.prod(points**left, axis=-1) * radius ** (2 * m)
    return value if surface is None else np.asarray(value / surface**order)
