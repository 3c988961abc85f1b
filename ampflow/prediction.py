"""What a potential says of files of structures, and how wrong it is on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ampflow.errors import DataError, OptionError
from ampflow.files import atomic_path
from ampflow.images import Frame, Rejected
from ampflow.potential.ensemble import Ensemble
from ampflow.potential.model import Potential
from ampflow.progress import Progress, silent
from ampflow.reading import count_images, read_atoms

__all__ = ["Errors", "Prediction", "check_output", "evaluate", "predict", "table", "write"]

_SUFFIXES = (".csv", ".extxyz", ".xyz")


@dataclass(frozen=True)
class Prediction:
    """A structure and what a potential says of it.

    Parameters
    ----------
    file, index
        Where the structure came from; indices count from 0.
    atoms
        The structure, with the labels of the file if there are any.
    energy
        eV.
    forces
        (atoms, 3) eV/Å, or None if they were not asked for.
    stress
        (6,) eV/Å³: xx yy zz yz xz xy; None without forces, or where the cell has no volume.
    half_width
        eV: half of the energy's interval, from an ensemble; None from a single potential.
    """

    file: Path
    index: int
    atoms: Atoms
    energy: float
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None = None
    half_width: float | None = None


class Errors(BaseModel):
    """How wrong a potential is on some structures: errors are predicted minus given.

    Energies in eV per structure and meV per atom, forces in eV/Å and stresses in eV/Å³ over all
    components; None where no structure has them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: int
    atoms: int
    energy_mae_ev: float
    energy_rmse_ev: float
    energy_mae_mev_per_atom: float
    energy_rmse_mev_per_atom: float
    structures_with_forces: int
    forces_mae_ev_per_angstrom: float | None
    forces_rmse_ev_per_angstrom: float | None
    structures_with_stress: int
    stress_mae_ev_per_cubic_angstrom: float | None
    stress_rmse_ev_per_cubic_angstrom: float | None


def predict(
    potential: Potential | Ensemble,
    files: list[Path],
    *,
    forces: bool = False,
    progress: Progress = silent,
) -> Iterator[Prediction]:
    """Predict the structures of `files`, one at a time; with forces, stresses as well.

    Raises
    ------
    DataError
        If a structure cannot be read or has an element that was not trained on; the message
        names its file and index.
    """
    total = count_images(files)
    for done, (file, index, atoms) in enumerate(_read(files), 1):
        yield _predict(potential, file, index, atoms, forces)
        progress(done, total)


def _read(files: list[Path]) -> Iterator[tuple[Path, int, Atoms]]:
    for file in files:
        for index, atoms in enumerate(read_atoms(file)):
            if isinstance(atoms, Rejected):
                raise DataError(f"{file}, structure {index}: {atoms.reason}", atoms.hint)
            yield file, index, atoms


def _predict(
    potential: Potential | Ensemble, file: Path, index: int, atoms: Atoms, forces: bool
) -> Prediction:
    try:
        if isinstance(potential, Potential) and not forces:
            energy = float(potential.predict([atoms])[0])
            return Prediction(file, index, atoms, energy, None)
        found = potential.evaluate(atoms)
        energy = float(found.energies.sum())
        if not forces:
            return Prediction(file, index, atoms, energy, None, None, found.half_width)
        stress = found.stress(atoms.cell)
        return Prediction(file, index, atoms, energy, found.forces, stress, found.half_width)
    except DataError as error:
        raise DataError(f"{file}, structure {index}: {error.what}", error.hint) from error


def table(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """Return one row a structure: file, index, formula, atoms, predicted energy in eV.

    An ensemble's have half of the interval as well.
    """
    columns = ["file", "index", "formula", "atoms", "predicted_ev", "half_width_ev"]
    rows = [
        (str(p.file), p.index, p.atoms.get_chemical_formula(), len(p.atoms), p.energy, p.half_width)
        for p in predictions
    ]
    found = pd.DataFrame(rows, columns=columns)
    return found.drop(columns="half_width_ev") if found["half_width_ev"].isna().all() else found


def check_output(path: Path, forces: bool) -> None:
    """Refuse a file name that `write` cannot serve.

    Raises
    ------
    OptionError
        If it ends in something unknown, or in .csv where forces are wanted.
    """
    if path.suffix not in _SUFFIXES:
        raise OptionError(
            f"{path}: predictions cannot be written to a file named so",
            f"a name that ends in {', '.join(_SUFFIXES)}",
        )
    if forces and path.suffix == ".csv":
        raise OptionError(f"{path}: forces have no place in a table", "a name ending in .extxyz")


def write(predictions: Iterable[Prediction], path: Path) -> None:
    """Write energies as a table (.csv), or structures with all that is predicted (.extxyz, .xyz).

    Half of an ensemble's interval is a column, or a structure's `energy_uncertainty`, in eV.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    with atomic_path(path) as part:
        if path.suffix == ".csv":
            table(predictions).to_csv(part, index=False)
        else:
            with part.open("w") as out:
                for prediction in predictions:
                    ase.io.write(out, _labelled(prediction), format="extxyz")


def _labelled(prediction: Prediction) -> Atoms:
    atoms: Atoms = prediction.atoms.copy()
    for name in all_properties:  # labels that readers left there: not what is predicted
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    labels: dict[str, float | NDArray[np.float64]] = {"energy": prediction.energy}
    if prediction.forces is not None:
        labels["forces"] = prediction.forces
    if prediction.stress is not None:
        labels["stress"] = prediction.stress
    if prediction.half_width is not None:
        atoms.info["energy_uncertainty"] = prediction.half_width
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def evaluate(
    potential: Potential | Ensemble, files: list[Path], progress: Progress = silent
) -> Errors:
    """Compare predictions with the energies, and what there is of forces and stresses, of `files`.

    Raises
    ------
    DataError
        As `predict`, and if a structure has no energy, or there are no structures.
    """
    total = count_images(files)
    energies, sizes, forces, stresses = [], [], [], []
    for done, (file, index, atoms) in enumerate(_read(files), 1):
        energy, known, strained = _labels(file, index, atoms)
        wanted = known is not None or strained is not None
        found = _predict(potential, file, index, atoms, forces=wanted)
        energies.append(found.energy - energy)
        sizes.append(len(atoms))
        if known is not None and found.forces is not None:
            forces.append(found.forces - known)
        if strained is not None and found.stress is not None:
            stresses.append(found.stress - strained)
        progress(done, total)
    if not sizes:
        raise DataError("no structures to evaluate on", "check the files")
    return _errors(np.array(energies), np.array(sizes), forces, stresses)


def _labels(
    file: Path, index: int, atoms: Atoms
) -> tuple[float, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return energy, forces and stress."""
    try:
        frame = Frame.of(atoms)
    except ValueError as error:
        raise DataError(f"{file}, structure {index}: {error}", "mend the file") from error
    if frame.energy is None or not np.isfinite(frame.energy):
        raise DataError(
            f"{file}, structure {index}: it has no energy to compare with",
            "leave it out, or use `ampflow predict`, which needs none",
        )
    return frame.energy, frame.forces, frame.stress


def _errors(
    energies: NDArray[np.float64],
    sizes: NDArray[np.int64],
    forces: list[NDArray[np.float64]],
    stresses: list[NDArray[np.float64]],
) -> Errors:
    per_structure, per_atom = _means(energies), _means(1000 * energies / sizes)
    of_forces, of_stresses = (
        _means(np.concatenate(found)) if found else (None, None) for found in (forces, stresses)
    )
    return Errors(
        structures=len(sizes),
        atoms=int(sizes.sum()),
        energy_mae_ev=per_structure[0],
        energy_rmse_ev=per_structure[1],
        energy_mae_mev_per_atom=per_atom[0],
        energy_rmse_mev_per_atom=per_atom[1],
        structures_with_forces=len(forces),
        forces_mae_ev_per_angstrom=of_forces[0],
        forces_rmse_ev_per_angstrom=of_forces[1],
        structures_with_stress=len(stresses),
        stress_mae_ev_per_cubic_angstrom=of_stresses[0],
        stress_rmse_ev_per_cubic_angstrom=of_stresses[1],
    )


def _means(errors: NDArray[np.float64]) -> tuple[float, float]:
    """Return MAE and RMSE."""
    return float(np.abs(errors).mean()), float(np.sqrt((errors**2).mean()))
