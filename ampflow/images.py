"""Structures with energies, and whether they can be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.contacts import nearest_pairs
from ampflow.digests import digest
from ampflow.errors import DataError

__all__ = ["Frame", "Image", "Rejected", "check_frames", "voigt"]


class Frame(NamedTuple):
    """What a file says of a structure, as arrays: making `ase.Atoms` takes longer than reading.

    Parameters
    ----------
    numbers
        (atoms,) atomic numbers.
    positions, cell
        (atoms, 3) and (3, 3) in Å.
    pbc
        (3,) which axes are periodic.
    energy
        eV, or None.
    forces
        eV/Å as the file has them (constraints are not applied), or None.
    stress
        (6,) eV/Å³, xx yy zz yz xz xy, or None; as ASE counts it, positive where the cell wants to
        shrink.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: float | None
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, atoms: Atoms) -> Self:
        """Take a structure as ASE read it, with its results."""
        results = atoms.calc.results if atoms.calc is not None else {}
        energy, forces, stress = (results.get(name) for name in ("energy", "forces", "stress"))
        return cls(
            np.asarray(atoms.numbers, dtype=np.int64),
            np.asarray(atoms.positions, dtype=np.float64),
            np.asarray(atoms.cell, dtype=np.float64),
            np.asarray(atoms.pbc, dtype=np.bool_),
            None if energy is None else float(energy),
            None if forces is None else np.asarray(forces, dtype=np.float64),
            None if stress is None else voigt(np.asarray(stress, dtype=np.float64)),
        )

    @property
    def atoms(self) -> Atoms:
        """The structure without labels."""
        return Atoms(
            numbers=self.numbers,  # not as symbols: ASE would look at each
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
        )

    @property
    def filled_forces(self) -> NDArray[np.float64]:
        """The forces, not-a-number where there are none."""
        return np.full(self.positions.shape, np.nan) if self.forces is None else self.forces

    @property
    def filled_stress(self) -> NDArray[np.float64]:
        """The stress, not-a-number where there is none."""
        return np.full(6, np.nan) if self.stress is None else self.stress


def voigt(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a stress, (3, 3), (9,) or (6,), as xx yy zz yz xz xy.

    Raises
    ------
    ValueError
        If it has another shape.
    """
    if stress.shape == (6,):
        return stress
    if stress.size != 9:
        raise ValueError(f"a stress of shape {stress.shape}")
    whole = stress.reshape(3, 3)
    return np.asarray(((whole + whole.T) / 2).ravel()[[0, 4, 8, 5, 2, 1]])


@dataclass(frozen=True)
class Image:
    """A structure that can be used.

    Parameters
    ----------
    frame
        The structure, with its energy.
    file, index
        Where it came from; indices count from 0.
    geometry
        Digest of numbers, positions, cell and pbc.
    """

    frame: Frame
    file: Path
    index: int
    geometry: str

    @property
    def atoms(self) -> Atoms:
        """The structure without labels, made anew."""
        return self.frame.atoms

    @property
    def energy(self) -> float:
        """In eV."""
        assert self.frame.energy is not None  # checked
        return self.frame.energy

    @property
    def forces(self) -> NDArray[np.float64] | None:
        """(atoms, 3) eV/Å, or None."""
        return self.frame.forces

    @property
    def stress(self) -> NDArray[np.float64] | None:
        """(6,) eV/Å³, xx yy zz yz xz xy, or None."""
        return self.frame.stress


@dataclass(frozen=True)
class Rejected:
    """A structure that is left out, and why.

    A duplicate is one that was read before, with the same energy: leaving it out loses
    nothing, so it is not an error under any policy.
    """

    file: Path
    index: int
    reason: str
    hint: str = ""
    duplicate: bool = False

    def error(self) -> DataError:
        """Say it as an error."""
        return DataError(
            f"{self.file}, structure {self.index}: {self.reason}",
            self.hint or 'mend the file, or leave such structures out: data.on_bad = "skip"',
        )


def check_frames(
    found: Sequence[tuple[int, Frame | Rejected]],
    file: Path,
    min_distance: float,
    known: frozenset[int],
) -> list[Image | Rejected]:
    """Tell which structures can be used; many at a time, which is faster.

    Parameters
    ----------
    found
        Structures with their indices in the file, and what was left out already.
    file
        Where they were read.
    min_distance
        Two atoms nearer than this (Å) lie on top of each other.
    known
        Atomic numbers that have a density.
    """
    frames = {index: frame for index, frame in found if isinstance(frame, Frame)}
    reasons = {index: _bad_numbers(frame, known) for index, frame in frames.items()}
    sound = [index for index, reason in reasons.items() if not reason]
    placed = _bad_places([frames[index] for index in sound], min_distance)
    reasons.update(zip(sound, placed, strict=True))
    return [
        item
        if isinstance(item, Rejected)
        else Rejected(file, index, reasons[index])
        if reasons[index]
        else Image(item, file, index, _geometry(item))
        for index, item in found
    ]


def _geometry(frame: Frame) -> str:
    return digest(frame.numbers, frame.positions, frame.cell, frame.pbc)


def _bad_numbers(frame: Frame, known: frozenset[int]) -> str:
    """Say what is missing, not finite, or unknown."""
    numbers, positions, cell, _, energy, forces, stress = frame
    if not len(numbers):
        return "it has no atoms"
    if not _finite(positions):
        return f"the position of atom {_first_bad(positions)} is not a finite number"
    if not _finite(cell):
        return "the cell has a value that is not a finite number"
    if energy is None:
        return "it has no energy"
    if not math.isfinite(energy):
        return f"its energy is {energy}"
    if forces is not None and forces.shape != positions.shape:
        return f"it has {len(numbers)} atoms, but forces of shape {forces.shape}"
    if forces is not None and not _finite(forces):
        return f"the force on atom {_first_bad(forces)} is not a finite number"
    if stress is not None and not _finite(stress):
        return "its stress has a value that is not a finite number"
    unknown = sorted(set(numbers.tolist()) - known)
    if unknown:
        from ase.data import chemical_symbols

        return f"no density for {', '.join(chemical_symbols[number] for number in unknown)}"
    return ""


def _finite(values: NDArray[np.float64]) -> bool:
    # A sum is faster, and finite only if all are; it may overflow where they are.
    return math.isfinite(values.sum()) or bool(np.isfinite(values).all())


def _bad_places(frames: Sequence[Frame], min_distance: float) -> list[str]:
    """Say of each whether its cell is flat, or which atoms are on top of each other."""
    if not frames:
        return []
    offsets = np.cumsum([0, *(len(frame.numbers) for frame in frames)])
    positions = np.concatenate([frame.positions for frame in frames])
    pbc = np.array([frame.pbc for frame in frames])
    periodic = np.array([frame.cell for frame in frames]) * pbc[:, :, None]
    flat = np.linalg.matrix_rank(periodic) < pbc.sum(axis=1)
    distances, pairs = nearest_pairs(positions, offsets, periodic)
    return [
        "it is periodic but its cell is missing or flat along a periodic axis"
        if is_flat
        else f"atoms {i} and {j} are {distance:.3f} Å apart, nearer than {min_distance:g} Å"
        if distance < min_distance
        else ""
        for is_flat, distance, (i, j) in zip(flat, distances.tolist(), pairs.tolist(), strict=True)
    ]


def _first_bad(rows: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
