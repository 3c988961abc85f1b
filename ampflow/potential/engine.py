"""What a trainer needs of whatever does its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.potential.scaling import Scaler
from ampflow.potential.state import State

__all__ = ["BETA1", "BETA2", "EPSILON", "Engine", "Samples", "averaging", "samples"]

# Adam's usual constants (Kingma and Ba 2015).
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Samples:
    """Structures as the network sees them.

    Parameters
    ----------
    features
        (atoms, features), standardised, in the precision of the training.
    offsets
        (structures + 1,) where each structure's atoms begin.
    targets
        (structures,) float64: what the network's atomic energies should sum to.
    unit
        eV: what a target of 1 means.
    """

    features: NDArray[np.floating]
    offsets: NDArray[np.int64]
    targets: NDArray[np.float64]
    unit: float = 1.0

    def __len__(self) -> int:
        return len(self.targets)


def samples(
    dataset: Dataset, residuals: NDArray[np.float64], scaler: Scaler, precision: str
) -> Samples:
    """Scale a dataset once for all epochs.

    Parameters
    ----------
    residuals
        (structures,) eV: energies less the reference energies.
    precision
        "float32" or "float64".
    """
    features = scaler.features(dataset.fingerprints).astype(precision)
    return Samples(features, dataset.offsets, residuals / scaler.energy, scaler.energy)


class Engine(Protocol):
    """Trains a network on samples that it was made with."""

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """Step once a batch through the train samples in `order`, by Adam or AdamW.

        Changes the weights, memory and steps of `state` in place. `ends` are where the batches
        end in `order`; `key` seeds dropout.
        Returns the mean absolute error on the way, in the scaler's unit.
        """

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """Return mean absolute error, loss and the loss's gradient over all train samples."""

    def error(self, weights: NDArray[np.floating]) -> float:
        """Return the mean absolute error on the validation samples, in the scaler's unit."""


def averaging(ema_decay: float, step: int) -> float:
    """Return what the running average keeps of itself at a step: less in the first ones."""
    return min(ema_decay, step / (9 + step))
