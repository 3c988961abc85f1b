from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from numpy.typing import NDArray

from ampflow.fingerprints import GMP, Densities, read_densities

CASES: dict[str, dict[str, Any]] = {
    "gmp_ampopt": {"orders": [0, 1, 2], "cutoff": 5, "normalize": "group"},
    "gmp_order3_c5": {"orders": [0, 1, 2, 3], "cutoff": 5, "normalize": "group"},
    "on_c5_sq0_solid1": {"orders": [0, 1, 2, 3], "cutoff": 5},
    "on_c5_sq0_solid0": {"orders": [0, 1, 2, 3], "cutoff": 5, "harmonics": "surface"},
    "on_c8_sq1_solid1": {"orders": [0, 1, 2, 3], "cutoff": 8, "square": True},
}


@pytest.fixture(scope="module")
def densities(shared: Path) -> Densities:
    return read_densities(shared / "data" / "gmp_densities")


@pytest.fixture(scope="module")
def sigmas(shared: Path) -> list[float]:
    table: dict[str, list[float]] = json.loads((shared / "data" / "gmp_sigmas.json").read_text())
    return table["8"]


def structures(arrays: Any) -> list[Atoms]:
    index = arrays["image_index"]
    return [
        Atoms(arrays["numbers"][index == k], arrays["positions"][index == k], cell=cell, pbc=pbc)
        for k, (cell, pbc) in enumerate(zip(arrays["cell"], arrays["pbc"], strict=True))
    ]


def error_of_column_maximum(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    scale = np.abs(theirs).max(axis=0)
    return float((np.abs(ours - theirs) / np.where(scale > 0, scale, 1.0)).max())


@pytest.mark.parametrize("data", ["water", "oc20"])
@pytest.mark.parametrize("name", CASES)
def test_reference(
    name: str, data: str, shared: Path, densities: Densities, sigmas: list[float]
) -> None:
    # Every value agrees with AMPTorch's to 1e-9 of its column's maximum.
    descriptor = GMP(sigmas=sigmas, densities=densities, **CASES[name])
    arrays = np.load(shared / "reference" / f"{name}__{data}.npz")
    ours = np.concatenate([descriptor.compute(atoms) for atoms in structures(arrays)])
    assert ours.shape == arrays["fp"].shape
    assert error_of_column_maximum(ours, arrays["fp"]) < 1e-9
