"""Several potentials as one, with intervals that hold as often as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.dataset import Structures
from ampflow.digests import file_digest
from ampflow.errors import DataError, StorageError
from ampflow.files import atomic_path, read_json, write_json
from ampflow.potential.model import ENSEMBLE, MODEL, Evaluation, Potential

if TYPE_CHECKING:
    from ampflow.fingerprints import GMP

__all__ = ["Ensemble", "calibrate", "load_any"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Ensemble:
    """Potentials on the same fingerprints: their mean predicts, their spread says how surely.

    Parameters
    ----------
    members
        At least two.
    level
        Share of structures whose energy is to lie within the interval.
    factor, floor
        The interval is the mean, plus or minus `factor` times (standard deviation of the members
        + `floor`, eV); as `calibrate` found them.
    """

    members: Sequence[Potential]
    level: float = 0.9
    factor: float = math.nan
    floor: float = math.nan

    @property
    def fingerprints(self) -> GMP:
        """The descriptor that all members share."""
        return self.members[0].fingerprints

    def predict(self, dataset: Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean energies and halves of intervals: (structures,) eV each.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        mean, spread = self.spread(dataset)
        return mean, self.factor * (spread + self.floor)

    def spread(self, dataset: Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the members' energies: (structures,) eV each."""
        energies = np.stack([member.fit.predict(dataset) for member in self.members])
        return energies.mean(axis=0), energies.std(axis=0, ddof=1)

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Return means of energies, forces and strain, and half of the energy's interval, eV.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        dataset = self.members[0].dataset([atoms])
        fits = [member.fit for member in self.members]
        energies = np.mean([fit.atomic(dataset) for fit in fits], axis=0)
        slopes = np.mean([fit.slopes(dataset) for fit in fits], axis=0)
        gradient, strain = self.fingerprints.vjp(atoms, slopes)
        return Evaluation(energies, -gradient, strain, float(self.predict(dataset)[1][0]))

    def save(self, folder: Path) -> None:
        """Write the ensemble to `folder`, a model folder a member, replacing what is there.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        with atomic_path(folder, folder=True) as part:
            part.mkdir()
            names = [f"member{number}" for number in range(len(self.members))]
            for name, member in zip(names, self.members, strict=True):
                member.save(part / name)
            write_json(
                part / ENSEMBLE,
                {
                    "schema_version": SCHEMA_VERSION,
                    "members": len(self.members),
                    "digests": [file_digest(part / name / MODEL) for name in names],
                    "level": self.level,
                    "factor": self.factor,
                    "floor": self.floor,
                },
            )

    @classmethod
    def load(cls, folder: Path) -> Ensemble:
        """Read what `save` wrote.

        Raises
        ------
        StorageError
            If it is not there, is damaged, or was written by a newer ampflow.
        """
        try:
            said = read_json(folder / ENSEMBLE)
            if said["schema_version"] > SCHEMA_VERSION:
                raise StorageError(f"{folder}: written by a newer ampflow", "upgrade ampflow")
            members = [Potential.load(folder / f"member{n}") for n in range(said["members"])]
            for number, expected in enumerate(said.get("digests", [])):  # older ones have none
                if file_digest(folder / f"member{number}" / MODEL) != expected:
                    raise StorageError(
                        f"{folder}: the ensemble is damaged: member{number} is another potential",
                        "copy it again, or make it again",
                    )
            return cls(members, said["level"], said["factor"], said["floor"])
        except (KeyError, TypeError) as error:
            raise StorageError(f"{folder}: the ensemble is damaged: {error}") from error


def load_any(folder: Path) -> Potential | Ensemble:
    """Read the potential, or the ensemble, that is in a folder.

    Raises
    ------
    StorageError
        If there is neither, it is damaged, or was written by a newer ampflow.
    """
    return (Ensemble if (folder / ENSEMBLE).is_file() else Potential).load(folder)


def calibrate(ensemble: Ensemble, dataset: Structures) -> Ensemble:
    """Return the ensemble with intervals that hold for its level of structures like `dataset`.

    Split conformal prediction with scores |error| / (spread + mean spread): whatever the errors'
    distribution, an interval holds with at least the probability `level` for a structure that is
    exchangeable with those of `dataset`, none of which may have been fitted.

    Raises
    ------
    DataError
        If there are too few structures for the level.

    Notes
    -----
    Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018).
    """
    count = len(dataset)
    rank = math.ceil((count + 1) * ensemble.level)
    if rank > count:
        raise DataError(
            f"{count} structures are too few to calibrate intervals of {ensemble.level:.0%}",
            f"at least {math.ceil(ensemble.level / (1 - ensemble.level) - 1e-9)} are needed: a "
            "larger validation part, or a lower level",
        )
    mean, spread = ensemble.spread(dataset)
    floor = float(spread.mean())
    scores = np.sort(np.abs(mean - dataset.energies) / (spread + floor))
    return replace(ensemble, factor=float(scores[rank - 1]), floor=floor)
