"""What a trainer needs of whatever does its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Derivatives, Structures
from ampflow.errors import DataError
from ampflow.experiment import Training
from ampflow.potential.network import Network
from ampflow.potential.scaling import Scaler
from ampflow.potential.state import State
from ampflow.stored import Stored

__all__ = ["BETA1", "BETA2", "EPSILON", "Engine", "Engines", "ForceSamples", "Samples"]
__all__ += ["averaging", "samples"]

# Adam's usual constants (Kingma and Ba 2015).
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class ForceSamples:
    """What training on forces and stresses needs beside `Samples`.

    Parameters
    ----------
    targets
        (rows, 3) float64: the forces on a structure's atoms, in `Samples.unit` per Å, and where
        `strained` two rows more, its stress, per Å³, as `Derivatives` has it. Zeros where they
        are not trained on.
    derivatives
        Of the fingerprints as they are, not standardised.
    scales
        (features,) float64: what standardising divides fingerprints by.
    strained
        Whether stresses are there.
    """

    targets: NDArray[np.float64]
    derivatives: Derivatives
    scales: NDArray[np.float64]
    strained: bool = False

    @property
    def extra(self) -> int:
        """Rows of a structure beside those of its atoms."""
        return 2 if self.strained else 0


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
    forces
        None where energies alone are trained on.
    numbers
        (atoms,) atomic numbers; networks of elements need them.
    """

    features: NDArray[np.floating]
    offsets: NDArray[np.int64]
    targets: NDArray[np.float64]
    unit: float = 1.0
    forces: ForceSamples | None = None
    numbers: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class StreamedSamples:
    """Structures in a store, which the network sees standardised.

    Parameters
    ----------
    dataset, scaler, precision
        Where they are, and how to make `Samples.features` of them.
    targets, unit
        As of `Samples`.
    """

    dataset: Stored
    scaler: Scaler
    precision: str
    targets: NDArray[np.float64]
    unit: float

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(structures + 1,) where each structure's atoms begin."""
        return self.dataset.offsets

    @property
    def numbers(self) -> NDArray[np.integer]:
        """(atoms,) atomic numbers."""
        return self.dataset.numbers

    def __len__(self) -> int:
        return len(self.targets)


def samples(
    dataset: Structures, residuals: NDArray[np.float64], scaler: Scaler, options: Training
) -> Samples | StreamedSamples:
    """Scale structures once for all epochs; those in a store whenever they are read.

    Parameters
    ----------
    residuals
        (structures,) eV: energies less the reference energies.

    Raises
    ------
    DataError
        If forces, or stresses, are to be trained on, and some structure has none.
    ValueError
        If either are to be trained on, and the dataset has no derivatives.
    """
    targets, forces = residuals / scaler.energy, None
    if isinstance(dataset, Stored):
        if options.differentiates:
            raise ValueError("training on forces needs the structures in memory")
        return StreamedSamples(dataset, scaler, options.precision, targets, scaler.energy)
    assert isinstance(dataset, Dataset)
    features = scaler.features(dataset.fingerprints).astype(options.precision)
    if options.differentiates:
        forces = _force_samples(dataset, scaler, options)
    return Samples(features, dataset.offsets, targets, scaler.energy, forces, dataset.numbers)


def _force_samples(dataset: Dataset, scaler: Scaler, options: Training) -> ForceSamples:
    labels = {"force": dataset.forces, "stress": dataset.stresses}
    wanted = {"force": options.force_weight > 0, "stress": options.stress_weight > 0}
    for name, label in labels.items():
        if wanted[name] and label is None:
            what = {"force": "forces", "stress": "stress"}[name]
            raise DataError(
                f"training.{name}_weight is set, but some structures have no {what}",
                f"leave these structures out, or set {name}_weight = 0",
            )
    if dataset.derivatives is None:
        raise ValueError("training on forces needs `ampflow.potential.derivatives`")
    forces, stresses = dataset.forces, dataset.stresses
    rows = np.zeros((int(dataset.offsets[-1]), 3))
    if wanted["force"] and forces is not None:
        rows = forces / scaler.energy
    if wanted["stress"] and stresses is not None:
        ends = np.repeat(dataset.offsets[1:], 2)
        rows = np.insert(rows, ends, stresses.reshape(-1, 3) / scaler.energy, axis=0)
    return ForceSamples(rows, dataset.derivatives, scaler.scale, wanted["stress"])


class Engine(Protocol):
    """Trains a network on samples that it was made with."""

    def expect(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """Hear which orders the next calls of `epoch` have, so as to read ahead."""

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

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float, float]:
        """Return mean absolute errors on the validation samples, in the scaler's unit.

        The first is that of energies per structure; the others those of force components, per Å,
        and of stress components, per Å³; NaN where they are not trained on.
        """


Engines = Callable[
    [Network, Samples | StreamedSamples, Samples | StreamedSamples, Training],
    AbstractContextManager[Engine],
]
"""Makes an engine of a network, its train and validation samples and options, for a while."""


def averaging(ema_decay: float, step: int) -> float:
    """Return what the running average keeps of itself at a step: less in the first ones."""
    return min(ema_decay, step / (9 + step))
