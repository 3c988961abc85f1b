"""Scaling: what the network sees and says is of order one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Structures

__all__ = ["Scaler", "fit_scaler"]

_CONSTANT = 1e-12  # a column that varies less than this, relative to its size, says nothing


@dataclass(frozen=True)
class Scaler:
    """Standardises fingerprints and gives atomic energies their unit.

    Parameters
    ----------
    mean, scale
        (features,) of the train part's atoms; columns that do not vary have scale 1.
    energy
        eV: an atomic energy of 1 from the network means this much.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    energy: float

    def features(self, fingerprints: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardise (atoms, features)."""
        return (fingerprints - self.mean) / self.scale


def fit_scaler(dataset: Structures, residuals: NDArray[np.float64]) -> Scaler:
    """Fit a scaler to the train part.

    Parameters
    ----------
    dataset
        The train part, and nothing else.
    residuals
        (structures,) eV: what the reference energies leave unexplained. Their spread per atom
        becomes the unit of the network's output.
    """
    found = dataset.summary
    scale = np.sqrt(found.variance)
    scale = np.where(scale > _CONSTANT * found.largest, scale, 1.0)
    energy = float((residuals / dataset.atoms_per_structure).std())
    smallest = _CONSTANT * float(np.abs(dataset.energies).max(initial=1.0))
    return Scaler(found.mean, scale, energy if energy > smallest else 1.0)
