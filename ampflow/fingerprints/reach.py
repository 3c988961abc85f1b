"""How much of what a probe sees lies beyond the cutoff."""

from __future__ import annotations

from collections.abc import Iterable
from math import erfc, exp, pi, sqrt

import numpy as np

from ampflow.fingerprints.densities import Densities
from ampflow.fingerprints.gmp import GMP

__all__ = ["reach_note", "share_beyond"]

_MUCH = 0.05  # of a probe's weight
_FARTHEST = 200.0  # Å


def share_beyond(densities: Densities, number: int, sigma: float, cutoff: float) -> float:
    """Return the share of a probe's weight that is farther away than the cutoff.

    In uniform matter of one element, atoms at a distance d add to a multipole of order 0 in
    proportion to the product of the probe and their density, integrated over space: a Gaussian of
    d of variance σ² + 1/(2β) for each Gaussian of the density, with its charge B (π/β)^(3/2). This
    is the share of that sum, over all d, that comes from d > cutoff.

    Parameters
    ----------
    densities, number
        The density of this element.
    sigma, cutoff
        In Å.

    Raises
    ------
    DataError
        If the element has no density.
    """
    amplitude, beta = densities.of(number).T
    charge = amplitude * (pi / beta) ** 1.5
    x = cutoff / np.sqrt(2 * sigma**2 + 1 / beta)
    outside = np.array([erfc(y) + 2 * y * exp(-(y**2)) / sqrt(pi) for y in x])
    total = charge.sum()
    if total == 0:  # no electrons at all: sizes then
        charge, total = np.abs(charge), np.abs(charge).sum()
    return float(abs(charge @ outside / total))


def reach_note(descriptor: GMP, numbers: Iterable[int]) -> str:
    """Say which sigmas reach beyond the cutoff; empty if none has over 5 % of its weight there.

    Parameters
    ----------
    descriptor
        Its sigmas, cutoff and densities are looked at.
    numbers
        Atomic numbers in the data; the most extended of these elements counts.

    Raises
    ------
    DataError
        If one of them has no density.
    """
    elements = sorted({int(number) for number in numbers})

    def share(sigma: float, cutoff: float) -> float:
        return max(share_beyond(descriptor.densities, n, sigma, cutoff) for n in elements)

    cutoff = descriptor.cutoff
    sigmas = sorted({sigma for widths in descriptor.sigmas.values() for sigma in widths})
    wide = {sigma: share(sigma, cutoff) for sigma in sigmas if elements}
    wide = {sigma: beyond for sigma, beyond in wide.items() if beyond > _MUCH}
    if not wide:
        return ""
    listed = ", ".join(f"{sigma:g} Å ({beyond:.0%})" for sigma, beyond in wide.items())
    farther = np.arange(np.ceil(cutoff), _FARTHEST).tolist()
    enough = [far for far in farther if share(sigmas[-1], far) <= _MUCH]
    needed = f"{enough[0]:g} Å" if enough else f"over {_FARTHEST:g} Å"
    jumps = (
        ", and they jump when an atom crosses it (a fingerprints.switch_width of 1 to 2 Å prevents "
        "that: needed for forces and dynamics)"
        if descriptor.switch_width == 0
        else ""
    )
    return (
        f"Sigmas that reach beyond the cutoff of {cutoff:g} Å, and how much of their weight is out "
        f"there: {listed}. Their features describe only what is within{jumps}. They would be "
        f"whole with a cutoff of {needed}."
    )
