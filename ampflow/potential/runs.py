"""In which order the kernels have the atoms of structures: run after run of one network's."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Derivatives
from ampflow.potential.engine import ForceSamples
from ampflow.potential.network import Network

__all__ = ["Runs", "find_runs", "in_order", "most_columns", "places"]

_TILE = 24  # columns that a run fills up to at most; see `blocks.gather`
_STRUCTURES = 4096  # looked at together

Integers = NDArray[np.int64]


class Runs(NamedTuple):
    """Atoms of structures, each structure's sorted by the network that serves them.

    Parameters
    ----------
    order
        (atoms,) which atom is where.
    firsts, starts, networks
        As `runs`, `starts` and `networks` of `blocks.Part`.
    """

    order: Integers
    firsts: Integers
    starts: Integers
    networks: Integers


def find_runs(offsets: Integers, numbers: NDArray[np.integer] | None, network: Network) -> Runs:
    """Sort the atoms of structures that begin at `offsets`.

    Parameters
    ----------
    numbers
        (atoms,) atomic numbers; where one network serves all they are not looked at.
    """
    structures, atoms = len(offsets) - 1, int(offsets[-1])
    if not network.elements:  # a copy: numba would compile for what is read-only apart
        single = np.zeros(structures, np.int64)
        return Runs(np.arange(atoms), np.arange(structures + 1), offsets.copy(), single)
    if numbers is None:
        raise ValueError("networks of elements need the atomic numbers")
    which = network.which(numbers)
    owner = np.repeat(np.arange(structures), np.diff(offsets))
    order = np.lexsort((which, owner))
    which = which[order]  # `owner` is sorted already
    changes = np.flatnonzero((np.diff(owner) != 0) | (np.diff(which) != 0)) + 1
    starts = np.concatenate([[0], changes, [atoms]])
    return Runs(order, np.searchsorted(starts, offsets), starts, which[starts[:-1]])


def places(runs: Runs, features: int) -> tuple[Integers, Integers]:
    """Return where in `Part.features` each atom's first feature is, and the step to its next."""
    sizes = np.diff(runs.starts)
    first, steps = np.repeat(runs.starts[:-1], sizes), np.repeat(sizes, sizes)
    found = np.empty((2, len(runs.order)), np.int64)
    found[:, runs.order] = first * features + np.arange(len(first)) - first, steps
    return found[0], found[1]


def most_columns(offsets: Integers, numbers: NDArray[np.integer] | None, network: Network) -> int:
    """Return the columns of a block that any one of the structures fits into."""
    most = 0
    for start in range(0, len(offsets) - 1, _STRUCTURES):
        cut = offsets[start : start + _STRUCTURES + 1]
        own = None if numbers is None else numbers[cut[0] : cut[-1]]
        runs = find_runs(cut - cut[0], own, network)
        tiles = -(-np.diff(runs.starts) // _TILE)
        most = max(most, _TILE * int(np.add.reduceat(tiles, runs.firsts[:-1]).max()))
    return most


def in_order(given: ForceSamples, offsets: Integers, order: Integers) -> ForceSamples:
    """Return what is known of forces with the atoms in another order within their structures."""
    taken, sizes = given.derivatives.take(order), np.diff(offsets)
    counts = np.diff(taken.starts)
    begins = np.repeat(np.repeat(offsets[:-1], sizes), counts)  # structures stay where they are
    atom = taken.moved < np.repeat(np.repeat(sizes, sizes), counts)  # others are of strain
    moved = taken.moved.copy()
    moved[atom] = np.argsort(order)[(begins + moved)[atom]] - begins[atom]
    rows = order + given.extra * np.repeat(np.arange(len(sizes)), sizes)
    targets = given.targets.copy()
    targets[np.sort(rows)] = given.targets[rows]
    return replace(
        given, targets=targets, derivatives=Derivatives(taken.starts, moved, taken.values)
    )
