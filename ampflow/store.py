"""A fingerprint store: structures with labels and fingerprints, read as one though many files.

`NAME.lmdb` is the store: a header, an index of all structures, and which parts they are in.
Beside it, `structures/` and `fingerprints/` hold the parts, shared by all stores of the folder.
All are files of plain arrays with checksums (see `parts`), complete or absent, never changed;
readers use no locks and may be many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.errors import StorageError
from ampflow.images import Frame, Image, Rejected
from ampflow.parts import Part

__all__ = ["FingerprintStore", "Index", "fingerprints_path", "is_whole", "structures_path"]

_RUN = 32  # structures read at a time


def structures_path(store: Path, name: str) -> Path:
    """Return where the part of structures called `name` is."""
    return store.parent / "structures" / f"{name}.lmdb"


def fingerprints_path(store: Path, name: str) -> Path:
    """Return where the part of fingerprints called `name` is."""
    return store.parent / "fingerprints" / f"{name}.lmdb"


@dataclass(frozen=True)
class Index:
    """What is known of all structures without reading their records.

    Parameters
    ----------
    atoms
        (structures,) number of atoms.
    energies
        (structures,) eV.
    geometries
        (structures,) digests of the geometries, 20 hexadecimal digits each.
    formulas, formula_ids
        The distinct chemical formulas, and (structures,) which one each structure has.
    file_ids, file_indices
        (structures,) which of the header's files, and where in it.
    """

    atoms: NDArray[np.int64]
    energies: NDArray[np.float64]
    geometries: NDArray[np.str_]
    formulas: list[str]
    formula_ids: NDArray[np.integer]
    file_ids: NDArray[np.integer]
    file_indices: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.atoms)


class FingerprintStore:
    """A finished store, read-only. Files are opened at first use.

    Parameters
    ----------
    path
        The store's file.

    Raises
    ------
    StorageError
        At first use, if a file is missing, damaged, or of another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()

    def __reduce__(self) -> tuple[type[FingerprintStore], tuple[Path]]:
        return FingerprintStore, (self.path,)

    def __len__(self) -> int:
        return len(self._rows["atoms"])

    @cached_property
    def header(self) -> dict[str, Any]:
        """Versions, descriptor, digests, files and rejected structures."""
        return self._main.meta

    @cached_property
    def index(self) -> Index:
        """What is known of all structures."""
        rows = {name: self._rows[name] for name in Index.__dataclass_fields__ if name in self._rows}
        digits = self._rows["geometries"].tobytes().hex().encode()
        rows["geometries"] = np.frombuffer(digits, dtype="S20").astype(np.str_)
        return Index(**rows, formulas=self.header["formulas"])

    @property
    def digest(self) -> str:
        """The store's name."""
        return str(self.header["digest"])

    @property
    def rejected(self) -> list[Rejected]:
        """Structures that were left out."""
        return [Rejected(**(row | {"file": Path(row["file"])})) for row in self.header["rejected"]]

    @cached_property
    def parts(self) -> list[tuple[Part, Part]]:
        """The structures and the fingerprints of each shard."""
        return [
            (Part(structures_path(self.path, one)), Part(fingerprints_path(self.path, other)))
            for one, other in self.header["parts"]
        ]

    def fingerprints(self, index: int) -> NDArray[np.float64]:
        """Return one structure's fingerprints, (atoms, features)."""
        part, row = self.place(index)
        values: NDArray[np.float64] = self.parts[part][1].read(row, row + 1)["values"]
        return values

    def image(self, index: int) -> Image:
        """Return one structure as it was read."""
        part, row = self.place(index)
        record = self.parts[part][0].read(row, row + 1)
        frame = Frame(
            record["numbers"].astype(np.int64),
            record["positions"],
            record["cell"][0],
            record["pbc"][0],
            float(record["energy"][0]),
            record["forces"] if record["has_forces"][0] else None,
            None if np.isnan(record["stress"][0]).any() else record["stress"][0],
        )
        return Image(
            frame,
            Path(self.header["files"][self._rows["file_ids"][index]]["path"]),
            int(self._rows["file_indices"][index]),
            record["geometry"][0].tobytes().hex(),
        )

    def load(self, indices: NDArray[np.int64] | None = None) -> Dataset:
        """Read the structures at `indices` (None: all) into contiguous arrays.

        They are read in runs, so neighbours in the store cost less than scattered ones.
        """
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(self._rows["atoms"][chosen])]).astype(np.int64)
        fingerprints = np.empty((offsets[-1], len(self.header["features"])))
        numbers = np.empty(offsets[-1], dtype=np.int64)
        forces, stresses = np.empty((offsets[-1], 3)), np.empty((len(chosen), 6))
        all_forces = True
        for where, part, rows in self.runs(chosen):
            run = slice(int(rows.min()), int(rows.max()) + 1)
            structures, values = (one.read(run.start, run.stop) for one in self.parts[part])
            starts = self.parts[part][0].offsets[rows] - self.parts[part][0].offsets[run.start]
            source = _ranges(starts, self._rows["atoms"][chosen[where]])
            target = _ranges(offsets[where], self._rows["atoms"][chosen[where]])
            fingerprints[target] = values["values"][source]
            numbers[target] = structures["numbers"][source]
            forces[target] = structures["forces"][source]
            stresses[where] = structures["stress"][rows - run.start]
            all_forces &= bool(structures["has_forces"][rows - run.start].all())
        energies, known = self._rows["energies"][chosen], not np.isnan(stresses).any()
        arrays = fingerprints, numbers, offsets, energies, forces if all_forces else None
        return Dataset(*arrays, stresses=stresses if known else None)

    def close(self) -> None:
        """Close all files; they are opened again when they are used again."""
        for name in ("_main", "_rows", "header", "index", "parts"):
            self.__dict__.pop(name, None)

    def place(self, index: int) -> tuple[int, int]:
        """Return the shard that a structure is in, and its row there."""
        return int(self._rows["parts"][index]), int(self._rows["rows"][index])

    def find(self, part: int, row: int) -> int | None:
        """Return the structure in a row of a shard; None where that is left out."""
        found = np.flatnonzero((self._rows["parts"] == part) & (self._rows["rows"] == row))
        return int(found[0]) if len(found) else None

    def load_numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read the elements of the structures at `indices` alone: (atoms,)."""
        ends = np.cumsum(self._rows["atoms"][indices])
        numbers = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        for where, part, rows in self.runs(indices):
            structures, first = self.parts[part][0], int(rows.min())
            sizes = self._rows["atoms"][indices[where]]
            source = _ranges(structures.offsets[rows] - structures.offsets[first], sizes)
            found = structures.read(first, int(rows.max()) + 1)["numbers"]
            numbers[_ranges(ends[where] - sizes, sizes)] = found[source]
        return numbers

    def runs(
        self, chosen: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.int64]]]:
        """Group `chosen` into stretches of shards: positions in `chosen`, shard, rows."""
        parts, rows = self._rows["parts"][chosen], self._rows["rows"][chosen]
        order = np.lexsort((rows, parts))
        stretch = np.stack([parts[order], rows[order] // _RUN])
        cuts = np.flatnonzero((np.diff(stretch, axis=1) != 0).any(axis=0)) + 1
        for where in np.split(order, cuts) if len(order) else []:
            yield where, int(parts[where[0]]), rows[where]

    @cached_property
    def _main(self) -> Part:
        if not self.path.is_file():
            raise StorageError(f"{self.path}: no such store", "ampflow fingerprint makes it")
        part = Part(self.path)
        if part.meta.get("kind") != "store":
            raise StorageError(f"{self.path}: not a store", "ampflow fingerprint makes one")
        return part

    @cached_property
    def _rows(self) -> dict[str, NDArray[Any]]:
        return self._main.read(0, 1)


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the ranges of `sizes` that begin at `starts`."""
    before = np.cumsum(sizes) - sizes
    ranges: NDArray[np.int64] = np.repeat(starts - before, sizes) + np.arange(sizes.sum())
    return ranges


def is_whole(path: Path) -> bool:
    """Tell whether a store is there, with all its parts; not whether each byte of them is right."""
    store = FingerprintStore(path)
    try:
        counts = {len(part) == len(other) for part, other in store.parts}
        return counts == {True} and len(store) > 0 and store.digest == path.stem
    except StorageError:
        return False
