from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ampflow.dataset import Dataset

Make = Callable[..., Dataset]


def _make(structures: int = 30, seed: int = 0, features: int = 5) -> Dataset:
    """Structures of H, C and O whose energy is a smooth function of their features."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9, structures)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    numbers = random.choice([1, 6, 8], offsets[-1])
    numbers[: min(3, len(numbers))] = [1, 6, 8][: len(numbers)]  # every element is there
    fingerprints = random.normal(
        2.0, [1.0, 10.0, 0.1, 1.0, 3.0][:features], (len(numbers), features)
    )
    fingerprints[:, 3] = 7.0  # a constant column
    atomic = -numbers * 10.0 + np.sin(fingerprints[:, 0]) + 0.1 * fingerprints[:, 1]
    return Dataset(fingerprints, numbers, offsets, np.add.reduceat(atomic, offsets[:-1]))


@pytest.fixture(scope="session")
def make() -> Make:
    """Make a small dataset of a given number of structures, seed and number of features."""
    return _make
