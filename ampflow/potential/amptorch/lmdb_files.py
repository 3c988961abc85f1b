"""LMDB files in AMPTorch's format: pickles of torch_geometric's Data, which we write, not read."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.potential.amptorch.compat import load_amptorch
from ampflow.potential.scaling import Scaler

__all__ = ["STAND_IN", "write_lmdb"]

STAND_IN: tuple[str, Any, Any] = (
    "gaussian",
    {"default": {"G2": {"etas": [1.0], "rs_s": [0.0]}, "cutoff": 6.0}},
    {},
)
"""The smallest descriptor there is, for files that only a training reads.

AMPTorch makes the descriptor that a file names even where the fingerprints are ready."""

_PAGE = 4096
_RUN = 256  # structures a transaction


def write_lmdb(
    path: Path,
    dataset: Dataset,
    targets: NDArray[np.float64],
    scaler: Scaler,
    elements: NDArray[np.int64],
    descriptor: tuple[str, Any, Any] = STAND_IN,
    precision: str = "float64",
) -> None:
    """Write a new file that AMPTorch's `AtomsTrainer` reads.

    Parameters
    ----------
    targets
        (structures,) eV: energies less the reference energies.
    scaler
        Of fingerprints and targets. AMPTorch finds both scaled, and the scaler beside them.
    elements
        Atomic numbers that occur in any of the files that belong together.
    descriptor
        Scheme, parameters and cutoff function, as AMPTorch has them.
    """
    load_amptorch()
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=64 * _PAGE)
    try:
        _put(environment, _common(len(dataset), scaler, elements, descriptor).items())
        for start in range(0, len(dataset), _RUN):
            stop = min(start + _RUN, len(dataset))
            _put(environment, _structures(dataset, targets, scaler, start, stop, precision))
        environment.sync(True)
    finally:
        environment.close()


def _put(environment: lmdb.Environment, items: Iterable[tuple[str, Any]]) -> None:
    """Write values in one transaction, having made room for exactly these."""
    values = {name.encode(): pickle.dumps(value, protocol=4) for name, value in items}
    pages = sum(len(value) // _PAGE + 4 for value in values.values())
    environment.set_mapsize(environment.info()["map_size"] + pages * _PAGE)
    with environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name, value)


def _common(
    length: int, scaler: Scaler, elements: NDArray[np.int64], descriptor: tuple[str, Any, Any]
) -> dict[str, Any]:
    import torch
    from amptorch.preprocessing import FeatureScaler, TargetScaler

    # Their constructors would fit to the file's structures; ours were fitted to the train part.
    features = FeatureScaler.__new__(FeatureScaler)
    features.transform, features.elementwise = "standardize", False
    features.forcetraining, features.threshold = False, 0.0
    offset, scale = torch.from_numpy(scaler.mean), torch.from_numpy(scaler.scale)
    features.scale = {"offset": offset, "scale": scale}
    energies = TargetScaler.__new__(TargetScaler)
    energies.forcetraining = False
    energies.target_mean, energies.target_std = 0.0, scaler.energy
    symbols = np.array([chemical_symbols[number] for number in elements])
    return {
        "length": length,
        "feature_scaler": features,
        "target_scaler": energies,
        "elements": symbols,
        "descriptor_setup": (*descriptor, symbols),
    }


def _structures(
    dataset: Dataset,
    targets: NDArray[np.float64],
    scaler: Scaler,
    start: int,
    stop: int,
    precision: str,
) -> Iterator[tuple[str, Any]]:
    import torch
    from torch_geometric.data import Data

    for index in range(start, stop):
        atoms = slice(dataset.offsets[index], dataset.offsets[index + 1])
        scaled = scaler.features(dataset.fingerprints[atoms]).astype(precision)
        yield (
            str(index),
            Data(
                fingerprint=torch.from_numpy(scaled),
                atomic_numbers=torch.from_numpy(dataset.numbers[atoms].copy()),
                num_nodes=len(scaled),
                energy=float(targets[index] / scaler.energy),
            ),
        )
