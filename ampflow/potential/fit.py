"""What training found: references, scaling and weights, enough to predict energies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Structures
from ampflow.errors import DataError
from ampflow.potential.network import Network, atomic_energies, atomic_slopes
from ampflow.potential.references import ReferenceEnergies
from ampflow.potential.scaling import Scaler

__all__ = ["Fit"]

_BLOCK = 65536  # atoms predicted at once, so that memory does not grow with the structures


@dataclass(frozen=True)
class Fit:
    """A trained network with all it needs. Predictions are made in float64.

    Parameters
    ----------
    references, scaler, network
        As fitted to the train part.
    weights
        (network.size,) of the best epoch.
    """

    references: ReferenceEnergies
    scaler: Scaler
    network: Network
    weights: NDArray[np.float64]

    def atomic(self, dataset: Dataset) -> NDArray[np.float64]:
        """Return what each atom contributes to the energy: (atoms,) eV.

        Raises
        ------
        DataError
            If an element was not in the train part, or the fingerprints are of another kind.
        """
        self._check(dataset)
        energies = self.references.per_atom(dataset)
        for start in range(0, len(energies), _BLOCK):
            block = slice(start, start + _BLOCK)
            scaled = self.scaler.features(dataset.fingerprints[block])
            numbers = dataset.numbers[block]
            found = atomic_energies(self.network, self.weights, scaled, numbers)
            energies[block] += self.scaler.energy * found
        return energies

    def slopes(self, dataset: Dataset) -> NDArray[np.float64]:
        """Return the derivative of each atom's energy by its fingerprint: (atoms, features) eV.

        Raises
        ------
        DataError
            As `atomic` does.
        """
        self._check(dataset)
        self.references.per_atom(dataset)  # knows the elements
        scaled = self.scaler.features(dataset.fingerprints)
        found = atomic_slopes(self.network, self.weights, scaled, dataset.numbers)
        return found * (self.scaler.energy / self.scaler.scale)

    def predict(self, structures: Structures) -> NDArray[np.float64]:
        """Return the energy of each structure: (structures,) eV.

        Raises
        ------
        DataError
            As `atomic` does.
        """
        self.references.check(structures)  # whose error names the structure
        found = [
            np.add.reduceat(self.atomic(piece), piece.offsets[:-1]) for piece in structures.pieces()
        ]
        return np.concatenate([*found, np.zeros(0)])

    def _check(self, dataset: Dataset) -> None:
        features = dataset.fingerprints.shape[1]
        if features != self.network.features:
            raise DataError(
                f"the fingerprints have {features} features, the potential was trained on "
                f"{self.network.features}",
                "make the fingerprints with the potential's own descriptor",
            )
