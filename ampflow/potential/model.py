"""A potential that describes itself, and the folder it is kept in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ampflow.dataset import Dataset
from ampflow.digests import digest, file_digest
from ampflow.errors import StorageError
from ampflow.experiment import Training
from ampflow.files import atomic_path, read_json, write_json
from ampflow.potential.fit import Fit
from ampflow.potential.network import Network
from ampflow.potential.references import ReferenceEnergies
from ampflow.potential.scaling import Scaler

if TYPE_CHECKING:
    from ampflow.fingerprints import GMP

__all__ = ["ENSEMBLE", "MODEL", "Evaluation", "Potential"]

SCHEMA_VERSION = 2
# What turns the description of a version into that of the next. A folder of every version is kept
# in tests/potential/models, and must go on to load and to predict what it did.
_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda old: {**old, "network": {**old["network"], "elements": []}},  # one for all
}
MODEL, ENSEMBLE, _WEIGHTS = "model.json", "ensemble.json", "weights.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """What a potential says of one structure.

    Parameters
    ----------
    energies
        (atoms,) eV: what each atom contributes to the energy.
    forces
        (atoms, 3) eV/Å.
    strain
        (3, 3) eV: derivative of the energy by a strain of positions and cell; divided by the
        volume it is the stress.
    half_width
        eV: half of the interval that the energy lies in; None where a single potential speaks.
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    strain: NDArray[np.float64]
    half_width: float | None = None

    def stress(self, cell: Cell) -> NDArray[np.float64] | None:
        """Return xx yy zz yz xz xy, eV/Å³; None where the structure's cell has no volume."""
        if cell.rank < 3:
            return None
        found: NDArray[np.float64] = full_3x3_to_voigt_6_stress(self.strain / cell.volume)
        return found


@dataclass(frozen=True)
class Potential:
    """Structures in; energies, forces and stress out.

    Parameters
    ----------
    descriptor
        Configuration of the fingerprints, as `GMP.config()` gave it.
    fit
        What training found.
    options
        The options it was trained with.
    provenance
        Whatever else is to be remembered, in JSON's types: seeds, digests, versions, scores.
    """

    descriptor: dict[str, Any]
    fit: Fit
    options: Training
    provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprints(self) -> GMP:
        """The descriptor, ready to compute."""
        from ampflow.fingerprints import GMP  # numba; reading a folder does without

        return GMP.from_config(self.descriptor)

    def atomic(self, atoms: Atoms) -> NDArray[np.float64]:
        """Return what each atom contributes to the energy: (atoms,) eV.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        return self.fit.atomic(self.dataset([atoms]))

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Return energies, forces and the derivative by strain of one structure.

        Forces are exact derivatives of the energy: the network's by the fingerprints, pulled
        back to the positions by `GMP.vjp`.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        dataset = self.dataset([atoms])
        energies = self.fit.atomic(dataset)
        gradient, strain = self.fingerprints.vjp(atoms, self.fit.slopes(dataset))
        return Evaluation(energies, -gradient, strain)

    def predict(self, structures: Iterable[Atoms]) -> NDArray[np.float64]:
        """Return the energies of some structures: (structures,) eV.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        return self.fit.predict(self.dataset(list(structures)))

    def dataset(self, structures: Sequence[Atoms]) -> Dataset:
        """Compute the fingerprints of some structures; their energies are NaN.

        Raises
        ------
        DataError
            If an element was not in the train part.
        """
        sizes = [len(atoms) for atoms in structures]
        numbers = [atoms.numbers for atoms in structures]
        bare = Dataset(
            np.zeros((sum(sizes), 0)),
            np.concatenate(numbers).astype(np.int64) if numbers else np.zeros(0, np.int64),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.full(len(sizes), np.nan),  # not known: it is what we are asked for
        )
        self.fit.references.per_atom(bare)  # the descriptor has no density of unseen elements
        rows = [self.fingerprints.compute(atoms) for atoms in structures]
        empty = np.zeros((0, self.fit.network.features))
        return replace(bare, fingerprints=np.concatenate(rows) if rows else empty)

    def save(self, folder: Path) -> None:
        """Write the potential to `folder`, replacing what is there, atomically.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        fit = self.fit
        tensors = {
            "weights": fit.weights,
            "feature_mean": fit.scaler.mean,
            "feature_scale": fit.scaler.scale,
            "elements": fit.references.elements,
            "reference_energies": fit.references.energies,
        }
        with atomic_path(folder, folder=True) as part:
            part.mkdir()
            save_file(tensors, part / _WEIGHTS)
            description = {
                "schema_version": SCHEMA_VERSION,
                "kind": "ampflow potential: energies in eV, lengths in Å",
                "descriptor": self.descriptor,
                "network": asdict(fit.network),
                "energy_scale": fit.scaler.energy,
                "training": self.options.model_dump(mode="json"),
                "provenance": self.provenance,
                "weights_digest": file_digest(part / _WEIGHTS),
            }
            kept = json.loads(json.dumps(description))  # as it is read again
            write_json(part / MODEL, kept | {"digest": digest(kept)})

    @classmethod
    def load(cls, folder: Path) -> Potential:
        """Read the potential that `save` wrote to `folder`. Runs no code from it.

        Raises
        ------
        StorageError
            If there is none, it is damaged, or was written by a newer ampflow.
        """
        description = _read_description(folder)
        try:
            if file_digest(folder / _WEIGHTS) != description["weights_digest"]:
                raise _damaged(folder, f"{_WEIGHTS} is not the file that was saved")
            tensors = load_file(folder / _WEIGHTS)
            references = ReferenceEnergies(tensors["elements"], tensors["reference_energies"])
            scaler = Scaler(
                tensors["feature_mean"], tensors["feature_scale"], description["energy_scale"]
            )
            shape = description["network"]
            network = Network(**{**shape, "elements": tuple(shape["elements"])})
            return cls(
                description["descriptor"],
                Fit(references, scaler, network, tensors["weights"]),
                Training.model_validate(description["training"]),
                description["provenance"],
            )
        except KeyError as error:
            raise _damaged(folder, f"{error} is missing") from error
        except (OSError, TypeError, SafetensorError, ValidationError) as error:
            raise _damaged(folder, str(error)) from error


def _read_description(folder: Path) -> dict[str, Any]:
    if not (folder / MODEL).is_file():
        if (folder / ENSEMBLE).is_file():
            raise StorageError(
                f"{folder}: an ensemble, and one potential is needed", f"{folder / 'member0'}"
            )
        why = f"{MODEL} is missing" if folder.is_dir() else "no such folder"
        raise StorageError(
            f"{folder}: no potential here ({why})", "give the folder that a training wrote"
        )
    try:
        description = read_json(folder / MODEL)
    except StorageError as error:
        raise _damaged(folder, error.what) from error
    if not isinstance(description, dict) or not isinstance(description.get("schema_version"), int):
        raise _damaged(folder, f"{MODEL} has no schema_version")
    version = description["schema_version"]
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{folder}: written by a newer ampflow (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION})",
            "upgrade ampflow",
        )
    said = description.pop("digest", None)  # older ones have none
    if said is not None and said != digest(description):
        raise _damaged(folder, f"{MODEL} is not the file that was saved")
    upgraded: dict[str, Any] = description
    for older in range(version, SCHEMA_VERSION):
        upgraded = _UPGRADES[older](upgraded)
    return upgraded


def _damaged(folder: Path, why: str) -> StorageError:
    return StorageError(
        f"{folder}: the potential is damaged: {why}", "copy it again, or train it again"
    )
