"""A potential as an ASE calculator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import NDArray

from ampflow.potential.ensemble import Ensemble, load_any
from ampflow.potential.model import Potential

__all__ = ["AmpflowCalculator", "load", "why_jumps"]


class AmpflowCalculator(Calculator):
    """Energies (eV) of whole structures and of their atoms, forces (eV/Å) and stress (eV/Å³).

    Forces and stress are exact derivatives of the energy. Where the fingerprints have a hard
    cutoff the energy itself jumps as atoms cross it, which a warning says once.

    Parameters
    ----------
    potential
        A trained potential, or an ensemble: then the results have `energy_uncertainty` as well,
        half of the interval that the energy lies in (eV).
    """

    implemented_properties = ["energy", "energies", "free_energy", "forces", "stress"]  # noqa: RUF012  # as ASE has it

    def __init__(self, potential: Potential | Ensemble, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.potential = potential
        self._warned = False

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute the energies; with any derivative asked for, all derivatives.

        Raises
        ------
        DataError
            If an element was not in the train part.
        PropertyNotImplementedError
            If stress is asked for and the cell has no volume.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        wanted = set(properties or ())
        if "stress" in wanted and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("stress: the cell has no volume")
        if wanted & {"forces", "stress"}:
            self._warn_of_jumps()
            self._differentiate(self.atoms)
        elif isinstance(self.potential, Potential):
            self._keep(self.potential.atomic(self.atoms))
        else:
            self._differentiate(self.atoms)

    def _keep(self, energies: NDArray[np.float64]) -> None:
        energy = float(energies.sum())
        self.results |= {"energy": energy, "free_energy": energy, "energies": energies}

    def _differentiate(self, atoms: Atoms) -> None:
        found = self.potential.evaluate(atoms)
        self._keep(found.energies)
        self.results["forces"] = found.forces
        if found.half_width is not None:
            self.results["energy_uncertainty"] = found.half_width
        stress = found.stress(atoms.cell)
        if stress is not None:
            self.results["stress"] = stress

    def _warn_of_jumps(self) -> None:
        if not self._warned and (why := why_jumps(self.potential)):
            self._warned = True
            warnings.warn(why, stacklevel=2)


def why_jumps(potential: Potential | Ensemble) -> str:
    """Say why the energy jumps where forces do not see it; empty if it does not."""
    descriptor = potential.fingerprints
    if descriptor.switch_width > 0:
        return ""
    return (
        "the fingerprints have a hard cutoff: the energy jumps when atoms come nearer "
        f"than {descriptor.cutoff:g} Å or leave, which forces do not see. For dynamics "
        "train with fingerprints.switch_width above 0"
    )


def load(path: str | Path) -> AmpflowCalculator:
    """Return the potential, or ensemble, saved in folder `path` as an ASE calculator.

    Raises
    ------
    StorageError
        If there is none, it is damaged, or was written by a newer ampflow.
    """
    return AmpflowCalculator(load_any(Path(path)))
