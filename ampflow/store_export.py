"""Writing a store in formats that other programs read, a few structures at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.errors import OptionError
from ampflow.files import atomic_path
from ampflow.images import Image
from ampflow.progress import Progress, silent
from ampflow.store import FingerprintStore

__all__ = ["FORMATS", "export", "format_of"]

_RUN = 256  # structures in memory at a time
_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
_Chunk = tuple[list[Image], Dataset]


def format_of(path: Path, format: str = "") -> str:
    """Return the format that is meant: `format`, or what the file's suffix says.

    Raises
    ------
    OptionError
        If that is none that can be written, or the file's name is that of a store.
    """
    if path.suffix == ".lmdb":
        raise OptionError(f"{path}: a store's name", "ampflow store export NEW.npz [STORE]")
    found = format or path.suffix.removeprefix(".")
    if found not in FORMATS:
        raise OptionError(
            f"{path}: cannot write {found or 'a file without suffix'!r}",
            f"--format {', '.join(FORMATS)}, or a name that ends so",
        )
    return found


def export(
    store: FingerprintStore, path: Path, format: str = "", progress: Progress = silent
) -> None:
    """Write structures, labels and fingerprints to one file.

    Parameters
    ----------
    format
        "extxyz" (energies, forces, stresses and `fingerprints` of each atom, as ASE reads them),
        "npz" (arrays; structure i has the atoms from offsets[i] to offsets[i + 1]) or "parquet" (a
        row an atom; needs pyarrow). By default what the suffix says.

    Raises
    ------
    OptionError
        If the format is unknown, its library is not installed, or the file's name is a store's.
    StorageError
        If the store is damaged, or the file cannot be written.
    """
    write = FORMATS[format_of(path, format)]
    with atomic_path(path) as part:
        write(store, part, progress)


def _chunks(store: FingerprintStore, progress: Progress) -> Iterator[_Chunk]:
    for start in range(0, len(store), _RUN):
        chosen = np.arange(start, min(start + _RUN, len(store)))
        yield [store.image(int(index)) for index in chosen], store.load(chosen)
        progress(int(chosen[-1]) + 1, len(store))


def _write_extxyz(store: FingerprintStore, path: Path, progress: Progress) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for images, data in _chunks(store, progress):
            for image, start, stop in zip(images, data.offsets[:-1], data.offsets[1:], strict=True):
                atoms = image.atoms
                labels: dict[str, Any] = {"energy": image.energy}
                if image.forces is not None:
                    labels["forces"] = image.forces
                if image.stress is not None:
                    labels["stress"] = image.stress
                atoms.calc = SinglePointCalculator(atoms, **labels)
                atoms.arrays["fingerprints"] = data.fingerprints[start:stop]
                ase.io.write(stream, atoms, format="extxyz")


def _write_npz(store: FingerprintStore, path: Path, progress: Progress) -> None:
    """Write an array after another, each in chunks: a zip's entries cannot be written at once."""
    count, atoms = len(store), int(store.index.atoms.sum())
    arrays: dict[str, tuple[tuple[int, ...], str, Callable[[_Chunk], NDArray[Any]]]] = {
        "fingerprints": (
            (atoms, len(store.header["features"])),
            "<f8",
            lambda chunk: chunk[1].fingerprints,
        ),
        "numbers": ((atoms,), "<i8", lambda chunk: chunk[1].numbers),
        "positions": (
            (atoms, 3),
            "<f8",
            lambda chunk: np.concatenate([image.atoms.positions for image in chunk[0]]),
        ),
        "forces": ((atoms, 3), "<f8", _forces),
        "cells": (
            (count, 3, 3),
            "<f8",
            lambda chunk: np.stack([np.asarray(image.atoms.cell) for image in chunk[0]]),
        ),
        "pbc": ((count, 3), "|b1", lambda chunk: np.stack([image.atoms.pbc for image in chunk[0]])),
        "stresses": ((count, 6), "<f8", _stresses),
    }
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        small = {
            "energies": store.index.energies,
            "offsets": np.concatenate([[0], np.cumsum(store.index.atoms)]),
            "features": np.array(store.header["features"]),
        }
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
        for name, (shape, dtype, of) in arrays.items():
            head = {"descr": dtype, "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, head)
                for chunk in _chunks(store, progress):
                    stream.write(np.ascontiguousarray(of(chunk), dtype=dtype).tobytes())


def _forces(chunk: _Chunk) -> NDArray[np.float64]:
    return np.concatenate([image.frame.filled_forces for image in chunk[0]])


def _stresses(chunk: _Chunk) -> NDArray[np.float64]:
    return np.stack([image.frame.filled_stress for image in chunk[0]])


def _write_parquet(store: FingerprintStore, path: Path, progress: Progress) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise OptionError(
            "Parquet needs pyarrow, which is not installed", 'pip install "ampflow[parquet]"'
        ) from None

    writer = None
    first = 0
    try:
        for images, data in _chunks(store, progress):
            sizes = data.atoms_per_structure
            positions = np.concatenate([image.atoms.positions for image in images])
            forces = _forces((images, data))
            stresses = np.repeat(_stresses((images, data)), sizes, axis=0)
            columns = {
                "structure": np.repeat(np.arange(first, first + len(data)), sizes),
                "atom": np.arange(data.offsets[-1]) - np.repeat(data.offsets[:-1], sizes),
                "number": data.numbers,
                "energy": np.repeat(data.energies, sizes),
                **{axis: positions[:, k] for k, axis in enumerate("xyz")},
                **{f"force_{axis}": forces[:, k] for k, axis in enumerate("xyz")},
                **{f"stress_{pair}": stresses[:, k] for k, pair in enumerate(_VOIGT)},
                **{
                    name: data.fingerprints[:, k] for k, name in enumerate(store.header["features"])
                },
            }
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            first += len(data)
    finally:
        if writer is not None:
            writer.close()


FORMATS: dict[str, Callable[[FingerprintStore, Path, Progress], None]] = {
    "extxyz": _write_extxyz,
    "npz": _write_npz,
    "parquet": _write_parquet,
}
"""What `export` can write."""
