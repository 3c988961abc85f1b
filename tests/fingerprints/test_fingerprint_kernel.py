from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from numpy.typing import NDArray

from ampflow.compiled import entry
from ampflow.fingerprints import GMP, Densities, kernel
from ampflow.fingerprints.exponential import exp2
from ampflow.simd import eight, load, store

DENSITIES = Densities({1: np.array([[0.4, 1.7]])})


@entry
def powers(x: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Raise 2 to each power."""
    for k in range(0, len(x), 8):
        store(out, k, exp2(load(x, k, eight(0.0))))


def test_exp2() -> None:
    # Relative error below 1e-15 down to 2**-1000, and no less than that below.
    x = -np.concatenate([np.random.default_rng(0).uniform(0, 1000, 4000), np.arange(1000) / 2])
    found = np.empty_like(x)
    powers(x, found)
    np.testing.assert_allclose(found, np.exp2(x), rtol=1e-15)
    powers(np.array([0.0, -1.0, -1000.0, -1001.0, -1e5, -1e300, -0.0, -2.0]), found)
    assert found[:8].tolist() == [1, 0.5, 2**-1000, 2**-1000, 2**-1000, 2**-1000, 1, 0.25]


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled code that could not be written to a full disk is used from memory.
    descriptor, calls = GMP([1.0], [0], 4.0, densities=DENSITIES), []
    genuine = kernel.features

    def full_once(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return genuine(*arguments)

    monkeypatch.setattr(kernel, "features", full_once)
    assert np.isfinite(descriptor.compute(Atoms("H"))).all()
    assert len(calls) == 2
