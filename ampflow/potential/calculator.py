"""A potential as an ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ampflow.potential.model import Potential

__all__ = ["AmpflowCalculator", "load"]


class AmpflowCalculator(Calculator):
    """Energies (eV) of whole structures and of their atoms.

    Forces and stress are not implemented: ASE raises PropertyNotImplementedError.

    Parameters
    ----------
    potential
        A trained potential.
    """

    implemented_properties = ["energy", "energies", "free_energy"]  # noqa: RUF012  # as ASE has it

    def __init__(self, potential: Potential, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute all there is.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        energies = self.potential.atomic(self.atoms)
        energy = float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "energies": energies}


def load(path: str | Path) -> AmpflowCalculator:
    """Return the potential saved in folder `path` as an ASE calculator.

    Raises
    ------
    StorageError
        If there is none, it is damaged, or was written by a newer ampflow.
    """
    return AmpflowCalculator(Potential.load(Path(path)))
