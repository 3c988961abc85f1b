"""Reference energies: the part of an energy that the composition alone explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ampflow.dataset import Structures
from ampflow.errors import DataError, OptionError
from ampflow.experiment import Training

__all__ = ["ReferenceEnergies", "fit_references", "make_references"]

_RANK_TOLERANCE = 1e-9  # of the largest singular value; counts are whole numbers, so a safe gap


@dataclass(frozen=True)
class ReferenceEnergies:
    """One energy an element, summed over a structure's atoms.

    Parameters
    ----------
    elements
        (elements,) atomic numbers, ascending.
    energies
        (elements,) eV per atom.
    """

    elements: NDArray[np.int64]
    energies: NDArray[np.float64]

    def per_atom(self, dataset: Structures) -> NDArray[np.float64]:
        """Return the reference energy of each atom: (atoms,) eV.

        Raises
        ------
        DataError
            If a structure has an element that has no reference energy.
        """
        self.check(dataset)
        return self._look_up(dataset.numbers)

    def of(self, dataset: Structures) -> NDArray[np.float64]:
        """Return the reference energy of each structure: (structures,) eV.

        Raises
        ------
        DataError
            If a structure has an element that has no reference energy.
        """
        self.check(dataset)
        found = np.zeros(len(dataset))
        for structures, atoms in dataset.spans():
            starts = dataset.offsets[structures] - atoms.start
            found[structures] = np.add.reduceat(self._look_up(dataset.numbers[atoms]), starts)
        return found

    def check(self, dataset: Structures) -> None:
        """Raise a DataError if a structure has an element that has no reference energy."""
        unseen = np.setdiff1d(dataset.elements, self.elements)
        if len(unseen):
            raise _unseen(unseen, dataset)

    def _look_up(self, numbers: NDArray[np.integer]) -> NDArray[np.float64]:
        return self.energies[np.searchsorted(self.elements, numbers)]


def make_references(dataset: Structures, options: Training) -> ReferenceEnergies:
    """Return the reference energies that the options ask for, of the elements of `dataset`.

    Parameters
    ----------
    dataset
        The train part, and nothing else.

    Raises
    ------
    DataError
        If there is no structure.
    OptionError
        If energies are given, but not that of every element.
    """
    if options.references == "fit":
        return fit_references(dataset, options.ridge)
    elements = dataset.elements
    if options.references == "none":
        return ReferenceEnergies(elements, np.zeros(len(elements)))
    given = options.reference_energies
    names = [chemical_symbols[number] for number in elements]
    if missing := [name for name in names if name not in given]:
        raise OptionError(
            f"training.reference_energies: none for {', '.join(missing)}",
            'give one for every element of the train part, or set training.references = "fit"',
        )
    return ReferenceEnergies(elements, np.array([given[name] for name in names]))


def fit_references(dataset: Structures, ridge: float = 0.0) -> ReferenceEnergies:
    """Fit one energy an element to the total energies by least squares.

    Where the compositions do not tell elements apart (water: always two H an O), the energies
    of least norm are taken; they give such compositions their right energy all the same.

    Parameters
    ----------
    dataset
        The train part, and nothing else.
    ridge
        Adds this times the squared deviations from the mean energy per atom to the mean squared
        error per structure.

    Raises
    ------
    DataError
        If there is no structure.
    """
    if not len(dataset):
        raise DataError("no structures to fit reference energies to")
    elements = dataset.elements
    counts = dataset.composition(elements).astype(np.float64)
    if not ridge:
        energies = np.linalg.lstsq(counts, dataset.energies, rcond=_RANK_TOLERANCE)[0]
        return ReferenceEnergies(elements, energies.astype(np.float64))
    mean = dataset.energies.sum() / counts.sum()
    rest = dataset.energies - mean * counts.sum(axis=1)
    stiff = counts.T @ counts + ridge * len(dataset) * np.eye(len(elements))
    return ReferenceEnergies(elements, mean + np.linalg.solve(stiff, counts.T @ rest))


def _unseen(numbers: NDArray[np.int64], dataset: Structures) -> DataError:
    first = int(np.flatnonzero(np.isin(dataset.numbers, numbers))[0])
    structure = int(np.searchsorted(dataset.offsets, first, side="right")) - 1
    where = f"structure {structure}: " if len(dataset) > 1 else ""
    names = ", ".join(chemical_symbols[number] for number in numbers)
    return DataError(
        f"{where}no structure of the train part has the element(s) {names}, "
        "so their energy is unknown",
        "put structures with these elements into the train part, or leave these structures out",
    )
