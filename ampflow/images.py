"""Reading structures with energies, and checking that they can be used."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.contacts import nearest_pair
from ampflow.digests import digest
from ampflow.errors import DataError
from ampflow.files import explain_os_error

__all__ = ["Image", "Rejected", "count_images", "expand_files", "read_atoms", "read_images"]


@dataclass(frozen=True)
class Image:
    """A structure that can be used.

    Parameters
    ----------
    atoms
        The structure, without its calculator.
    energy
        eV.
    forces
        (atoms, 3) eV/Å as the file has them (constraints are not applied), or None.
    file, index
        Where it came from; indices count from 0.
    geometry
        Digest of numbers, positions, cell and pbc.
    """

    atoms: Atoms
    energy: float
    forces: NDArray[np.float64] | None
    file: Path
    index: int
    geometry: str


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


def expand_files(patterns: list[str]) -> list[Path]:
    """Expand globs to files, sorted within each pattern.

    Raises
    ------
    DataError
        If a pattern matches nothing, or a file is named twice.
    """
    files: list[Path] = []
    for pattern in patterns:
        exact = Path(pattern).is_file()
        found = [pattern] if exact else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        matches = [Path(name) for name in found if not Path(name).is_dir()]
        if not matches:
            raise DataError(f"{pattern}: no such file", "check the path (data.files, --data)")
        files += matches
    counts = Counter(path.resolve() for path in files)
    twice = [path for path in files if counts[path.resolve()] > 1]
    if twice:
        raise DataError(f"{twice[0]}: named twice", "name each file once in [data]")
    return files


def count_images(files: list[Path]) -> int | None:
    """Count the structures of `files` without reading them; None where a format cannot tell."""
    total = 0
    for file in files:
        try:
            if file.suffix == ".traj":
                with ase.io.Trajectory(str(file)) as trajectory:
                    total += len(trajectory)
            elif file.suffix == ".db":
                total += ase.db.connect(str(file)).count()
            else:
                return None
        except Exception:  # reading it will say what is wrong
            return None
    return total


def read_images(
    files: list[Path], *, min_distance: float, known: frozenset[int]
) -> Iterator[Image | Rejected]:
    """Read `files` one structure at a time, checking each.

    Parameters
    ----------
    files
        Anything ASE reads.
    min_distance
        Two atoms nearer than this (Å) lie on top of each other.
    known
        Atomic numbers that have a density.
    """
    seen: dict[str, tuple[float, Path, int]] = {}
    for file in files:
        for index, item in enumerate(read_atoms(file)):
            if isinstance(item, Rejected):
                yield item
                continue
            image = _check(item, file, index, min_distance, known)
            if isinstance(image, Image):
                earlier = seen.setdefault(image.geometry, (image.energy, file, index))
                if earlier[1:] != (file, index):
                    yield _duplicate(image, *earlier)
                    continue
            yield image


def read_atoms(file: Path) -> Iterator[Atoms | Rejected]:
    """Read structures as they are; what ASE cannot read ends the file with a `Rejected`."""
    index = 0
    try:
        for atoms in ase.io.iread(str(file.absolute()), index=":"):
            yield atoms
            index += 1
    except Exception as error:  # ASE's readers raise anything at all
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, OSError) and error.errno:  # the disk's fault, not the file's
            raise explain_os_error(error, file) from error
        why = f"{type(error).__name__}: {error}".removesuffix(": ")
        yield Rejected(file, index, f"ASE cannot read it ({why})", _READ_HINT)
        return
    if index == 0:
        yield Rejected(file, 0, "the file has no structures", _READ_HINT)


_READ_HINT = (
    "check that the file is whole and in a format ASE knows (ase info --formats), "
    'or data.on_bad = "skip"'
)


def _check(
    atoms: Atoms, file: Path, index: int, min_distance: float, known: frozenset[int]
) -> Image | Rejected:
    results = atoms.calc.results if atoms.calc is not None else {}
    energy, forces = results.get("energy"), results.get("forces")
    reason = (
        _bad_geometry(atoms)
        or _bad_labels(energy, forces)
        or _bad_atoms(atoms, min_distance, known)
    )
    if reason:
        return Rejected(file, index, reason)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    cell = np.asarray(bare.cell, dtype=np.float64)
    return Image(
        bare,
        float(results["energy"]),
        None if forces is None else np.asarray(forces, dtype=np.float64),
        file,
        index,
        digest(bare.numbers, bare.positions, cell, bare.pbc),
    )


def _bad_geometry(atoms: Atoms) -> str:
    if len(atoms) == 0:
        return "it has no atoms"
    if not np.isfinite(atoms.positions).all():
        return f"the position of atom {_first_bad(atoms.positions)} is not a finite number"
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all():
        return "the cell has a value that is not a finite number"
    vectors = cell[atoms.pbc]
    if len(vectors) and np.linalg.matrix_rank(vectors) < len(vectors):
        return "it is periodic but its cell is missing or flat along a periodic axis"
    return ""


def _bad_labels(energy: object, forces: object) -> str:
    if energy is None:
        return "it has no energy"
    if not np.isfinite(np.asarray(energy, dtype=float)).all():
        return f"its energy is {energy}"
    if forces is not None and not np.isfinite(np.asarray(forces, dtype=float)).all():
        return f"the force on atom {_first_bad(np.asarray(forces))} is not a finite number"
    return ""


def _bad_atoms(atoms: Atoms, min_distance: float, known: frozenset[int]) -> str:
    unknown = sorted(set(atoms.numbers.tolist()) - known)
    if unknown:
        from ase.data import chemical_symbols

        names = ", ".join(chemical_symbols[number] for number in unknown)
        return f"no density for {names}"
    distance, i, j = nearest_pair(atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    if distance < min_distance:
        return f"atoms {i} and {j} are {distance:.3f} Å apart, nearer than {min_distance:g} Å"
    return ""


def _first_bad(rows: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])


def _duplicate(image: Image, energy: float, file: Path, index: int) -> Rejected:
    same = f"the same as structure {index} of {file}"
    if image.energy == energy:
        return Rejected(image.file, image.index, f"{same} (kept once)", duplicate=True)
    return Rejected(
        image.file,
        image.index,
        f"{same}, but with another energy ({image.energy:.6f} instead of {energy:.6f} eV)",
    )
