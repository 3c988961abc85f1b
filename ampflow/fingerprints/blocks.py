"""Which orders and sigmas are computed together.

Sigmas are the lanes of vectors, and what one exponential is good for is done with it: sigmas that
have the same orders make one block, or two where a vector of four is enough for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ampflow.fingerprints.densities import Densities
from ampflow.fingerprints.harmonics import Multipoles
from ampflow.fingerprints.tables import (
    Angular,
    Combination,
    Radial,
    make_angular,
    make_combination,
    make_radial,
    make_slopes,
)

__all__ = ["Block", "feature_names", "make_blocks"]

_WIDE, _NARROW = 8, 4  # sigmas in a vector

Sigmas = Mapping[int, Sequence[float]]
MultipolesOf = Callable[[Sequence[int]], Multipoles]


class Block:
    """Tables of some orders and sigmas, as compiled code takes them.

    Parameters
    ----------
    multipoles
        Of these orders.
    densities
        What is probed.
    sigmas, radii
        In Å, as `make_radial` has them, but for the end of the last vector.
    lanes
        Sigmas in a vector.
    square
        Keep sums of squares.
    column
        (features, sigmas) where each feature belongs.
    """

    def __init__(
        self,
        multipoles: Multipoles,
        densities: Densities,
        sigmas: Sequence[float],
        radii: Sequence[float],
        lanes: int,
        square: bool,
        column: NDArray[np.int64],
    ) -> None:
        missing = -len(sigmas) % lanes
        filled, around = (np.pad(values, (0, missing), mode="edge") for values in (sigmas, radii))
        columns = np.pad(column, ((0, 0), (0, missing)), constant_values=-1)
        self._multipoles = multipoles
        self.vector = (0.0,) * lanes
        self.tables: tuple[Angular, Radial, Combination] = (
            make_angular(multipoles),
            make_radial(multipoles, densities, filled, around, lanes),
            make_combination(multipoles, square, columns),
        )

    @cached_property
    def slopes(self) -> Angular:
        """The polynomials with their derivatives."""
        return make_slopes(self._multipoles)


def feature_names(multipoles_of: MultipolesOf, sigmas: Sigmas) -> list[str]:
    """Name all columns: orders as given, their features, and sigmas, fastest."""
    return [
        _name(feature.name, sigma)
        for order, widths in sigmas.items()
        for feature in multipoles_of([order]).features
        for sigma in widths
    ]


def make_blocks(
    multipoles_of: MultipolesOf,
    densities: Densities,
    sigmas: Sigmas,
    radius: Callable[[float], float],
    square: bool,
) -> list[Block]:
    """Divide orders, each with its sigmas, into blocks.

    Parameters
    ----------
    multipoles_of
        Makes the multipoles of some orders.
    densities
        What is probed.
    sigmas
        Order to its sigmas, in the order of the columns.
    radius
        Where r is set in surface harmonics, in Å, for a sigma.
    square
        Keep sums of squares.
    """
    columns = {name: k for k, name in enumerate(feature_names(multipoles_of, sigmas))}
    blocks = []
    for orders, widths in _sharing(sigmas).items():
        multipoles = multipoles_of(orders)
        for lanes, part in _vectors(widths):
            column = np.array(
                [[columns[_name(f.name, sigma)] for sigma in part] for f in multipoles.features]
            )
            radii = [radius(sigma) for sigma in part]
            blocks.append(Block(multipoles, densities, part, radii, lanes, square, column))
    return blocks


def _name(feature: str, sigma: float) -> str:
    return f"{feature}-sigma{sigma}"


def _sharing(sigmas: Sigmas) -> dict[tuple[int, ...], list[float]]:
    """Orders to the sigmas that they, and no others, have."""
    shared: dict[tuple[int, ...], list[float]] = {}
    for sigma in dict.fromkeys(sigma for widths in sigmas.values() for sigma in widths):
        orders = tuple(order for order, widths in sigmas.items() if sigma in widths)
        shared.setdefault(orders, []).append(sigma)
    return shared


def _vectors(sigmas: Sequence[float]) -> list[tuple[int, Sequence[float]]]:
    """Divide sigmas into those of wide vectors, and a rest that a narrow one holds."""
    rest = len(sigmas) % _WIDE
    wide = len(sigmas) - (rest if rest <= _NARROW else 0)
    parts = [(_WIDE, sigmas[:wide]), (_NARROW, sigmas[wide:])]
    return [(lanes, part) for lanes, part in parts if part]
