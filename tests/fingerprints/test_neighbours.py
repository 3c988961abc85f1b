from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ampflow.fingerprints.copies import TOO_MANY, complete_cell
from ampflow.fingerprints.neighbours import BAD_CELL, NOT_FINITE, Pairs, half_pairs

SKEWED = np.array([[2.1, 0.0, 0.0], [-1.7, 2.9, 0.3], [0.8, -2.4, 3.6]])
Entry = tuple[int, int, float, float, float]


def pairs_of(positions: Any, cell: Any, pbc: Any, cutoff: float) -> Pairs:
    offsets = np.array([0, len(positions)])
    return half_pairs(np.array(positions, dtype=float), offsets, cell[None], pbc[None], cutoff)


def found_pairs(positions: Any, cell: Any, pbc: Any, cutoff: float) -> list[Entry]:
    """Both directions of every pair that the library finds, rounded and sorted."""
    axes = np.array(pbc, dtype=bool)
    complete = complete_cell(np.array(cell, dtype=float), axes)
    pairs = pairs_of(positions, complete, axes, cutoff)
    assert pairs.found >= 0
    entries = []
    for k in range(pairs.found):
        i, j = int(pairs.first[k]), int(pairs.second[k])
        d = np.array([pairs.x[k], pairs.y[k], pairs.z[k]])
        entries += [rounded(i, j, d), rounded(j, i, -d)]
    return sorted(entries)


def expected_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: Any, cutoff: float, reach: int
) -> list[Entry]:
    """All pairs by trying shifts far beyond what can be needed."""
    entries = []
    for steps in product(*(range(-reach, reach + 1) if on else range(1) for on in pbc)):
        away = positions[None] - positions[:, None] + np.array(steps) @ cell
        square = np.sum(away**2, axis=2)
        if not any(steps):
            np.fill_diagonal(square, np.inf)
        for i, j in zip(*np.nonzero(square < cutoff**2), strict=True):
            entries.append(rounded(int(i), int(j), away[i, j]))
    return sorted(entries)


def rounded(i: int, j: int, d: NDArray[np.float64]) -> Entry:
    x, y, z = (np.round(d, 8) + 0.0).tolist()
    return i, j, x, y, z


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3)))
@pytest.mark.parametrize("handed", [1, -1])
def test_all_pairs(pbc: Any, handed: int) -> None:
    # Each pair is found once, with every image, whatever is periodic.
    cell = SKEWED[::handed]
    positions = np.random.default_rng(0).uniform(-1.5, 2.5, (4, 3)) @ cell
    assert found_pairs(positions, cell, pbc, 4.3) == expected_pairs(positions, cell, pbc, 4.3, 9)


@pytest.mark.parametrize("cutoff", [0.5, 2.0, 3.5])
def test_many_atoms(cutoff: float) -> None:
    # With many boxes, and pair arrays that have to grow.
    positions = np.random.default_rng(1).uniform(0, 9, (150, 3))
    cell, pbc = np.diag([9.0, 9.0, 9.0]), [True, True, False]
    positions[:, 2] *= 0.4
    found = found_pairs(positions, cell, pbc, cutoff)
    assert found == expected_pairs(positions, cell, pbc, cutoff, 2)


def test_cutoff_is_strict() -> None:
    # A pair at the cutoff itself is no pair.
    positions, nothing = [[0, 0, 0], [3, 0, 0]], np.zeros((3, 3))
    assert found_pairs(positions, nothing, [False] * 3, 3.0) == []
    assert len(found_pairs(positions, nothing, [False] * 3, 3.0000001)) == 2


def test_far_apart() -> None:
    # Vast empty space costs no memory.
    positions = np.array([[0, 0, 0], [1e9, 0, 0], [1e9, 1, 0], [0, -1e9, 1e9]])
    found = found_pairs(positions, np.zeros((3, 3)), [False] * 3, 2.0)
    assert found == [(1, 2, 0.0, 1.0, 0.0), (2, 1, 0.0, -1.0, 0.0)]


@pytest.mark.parametrize(
    ("positions", "cell", "pbc", "code"),
    [
        ([[0, 0, np.nan]], SKEWED, [True] * 3, NOT_FINITE),
        ([[0, 0, 0]], np.full((3, 3), np.inf), [False] * 3, NOT_FINITE),
        ([[0, 0, 0]], np.zeros((3, 3)), [False, True, False], BAD_CELL),
        ([[0, 0, 0]], SKEWED[[0, 1, 1]], [True] * 3, BAD_CELL),
        ([[0, 0, 0]], SKEWED * 1e-5, [True] * 3, TOO_MANY),
    ],
)
def test_refused(positions: Any, cell: Any, pbc: Any, code: int) -> None:
    # What has no answer gets the code that says why.
    axes = np.array(pbc)
    complete = complete_cell(np.array(cell, dtype=float), axes)
    pairs = pairs_of(positions, complete, axes, 5.0)
    assert pairs.found == code


def test_batches_are_their_structures() -> None:
    # Structures with far more pairs than there was room for at first, one after the other.
    cells = np.stack([SKEWED / 2.5, SKEWED[::-1] / 2.3, SKEWED / 2.7])
    positions, offsets = np.array([[0.1, 0, 0], [0, 0.2, 0], [0.5, 0, 0.3]]), np.arange(4)
    pbc = np.ones((3, 3), dtype=bool)
    together = half_pairs(positions, offsets, cells, pbc, 5.3)
    alone = [half_pairs(positions[[k]], offsets[:2], cells[[k]], pbc[[k]], 5.3) for k in range(3)]
    assert together.found == sum(pairs.found for pairs in alone) > 5 * 32 * len(positions)
    for name in ("x", "y", "z"):
        parts = [getattr(pairs, name)[: pairs.found] for pairs in alone]
        found = getattr(together, name)
        np.testing.assert_array_equal(found[: together.found], np.concatenate(parts))
        np.testing.assert_array_equal(found[together.found :][:4], 0.0)  # read as vectors of four
    owners = np.repeat(np.arange(3), [pairs.found for pairs in alone])
    np.testing.assert_array_equal(together.first[: together.found], owners)
    np.testing.assert_array_equal(together.second[: together.found], owners)
