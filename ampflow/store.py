"""Fingerprints and labels in LMDB: one record a structure, plain arrays, no pickle.

A store is one file. Its keys are `header` (JSON), `index` (msgpack: a few arrays over all
structures) and one 8-byte big-endian number a structure, whose value is a CRC-32 and a msgpack
map of that structure's arrays. It is written beside its final name and renamed, so a store
that exists is complete; readers use no locks and may be many.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.errors import StorageError
from ampflow.files import atomic_path, explain_os_error
from ampflow.images import Image, Rejected

__all__ = ["FingerprintStore", "Index", "StoreWriter", "is_whole", "write_store"]

SCHEMA_VERSION = 1
_FIRST_MAP_SIZE = 1 << 26  # 64 MB; doubled whenever it is full
_BATCH_BYTES = 1 << 25  # records are committed about 32 MB at a time
_GEOMETRY_BYTES = 10
_OPEN: dict[tuple[int, Path], tuple[int, lmdb.Environment]] = {}


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
    formula_ids: NDArray[np.int64]
    file_ids: NDArray[np.int64]
    file_indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.atoms)


class FingerprintStore:
    """A finished store, read-only. The file is opened at first use, once a process.

    Parameters
    ----------
    path
        The store's file.

    Raises
    ------
    StorageError
        At first use, if the file is missing, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def __reduce__(self) -> tuple[type[FingerprintStore], tuple[Path]]:
        return FingerprintStore, (self.path,)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def _environment(self) -> lmdb.Environment:
        """LMDB lets a process open a file once, so all stores of a file share it."""
        key = (os.getpid(), self.path)
        try:
            inode = self.path.stat().st_ino
        except OSError:
            self.close()
            raise StorageError(
                f"{self.path}: no such store", "ampflow fingerprint makes it"
            ) from None
        if key in _OPEN and _OPEN[key][0] != inode:  # replaced since it was opened
            self.close()
        if key not in _OPEN:
            _OPEN[key] = (inode, self._open())
        return _OPEN[key][1]

    def _open(self) -> lmdb.Environment:
        try:
            environment = lmdb.open(
                str(self.path), subdir=False, readonly=True, lock=False, readahead=False
            )
        except lmdb.Error as error:
            raise self._damaged(str(error)) from error
        # Reading beyond the end of a file that was cut short would kill the process.
        pages = environment.info()["last_pgno"] + 1
        if self.path.stat().st_size < pages * environment.stat()["psize"]:
            environment.close()
            raise self._damaged("it was cut short")
        return environment

    @cached_property
    def header(self) -> dict[str, Any]:
        """Versions, descriptor, digests, files and rejected structures."""
        header: dict[str, Any] = json.loads(self._get(b"header"))
        if header.get("schema", 0) > SCHEMA_VERSION:
            raise StorageError(
                f"{self.path}: written by a newer ampflow (schema {header['schema']})",
                "upgrade ampflow",
            )
        return header

    @cached_property
    def index(self) -> Index:
        """What is known of all structures."""
        raw = _unpack(self._get(b"index"))
        geometries = raw.pop("geometries")
        return Index(geometries=np.array([bytes(row).hex() for row in geometries]), **raw)

    @property
    def digest(self) -> str:
        """The store's name."""
        return str(self.header["digest"])

    @property
    def rejected(self) -> list[Rejected]:
        """Structures that were left out."""
        return [Rejected(**(row | {"file": Path(row["file"])})) for row in self.header["rejected"]]

    def fingerprints(self, index: int) -> NDArray[np.float64]:
        """Return one structure's fingerprints, (atoms, features)."""
        fingerprints: NDArray[np.float64] = self._record(index)["fingerprints"]
        return fingerprints

    def image(self, index: int) -> Image:
        """Return one structure as it was read."""
        record = self._record(index)
        atoms = Atoms(
            record["numbers"], record["positions"], cell=record["cell"], pbc=record["pbc"]
        )
        file = Path(self.header["files"][self.index.file_ids[index]]["path"])
        return Image(
            atoms,
            record["energy"],
            record.get("forces"),
            file,
            int(self.index.file_indices[index]),
            str(self.index.geometries[index]),
        )

    def load(self, indices: NDArray[np.int64] | None = None) -> Dataset:
        """Read the structures at `indices` (None: all) into contiguous arrays."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices)
        offsets = np.concatenate([[0], np.cumsum(self.index.atoms[chosen])]).astype(np.int64)
        fingerprints = np.empty((offsets[-1], len(self.header["features"])))
        numbers = np.empty(offsets[-1], dtype=np.int64)
        forces: NDArray[np.float64] | None = np.empty((offsets[-1], 3))
        for index, start, stop in zip(chosen, offsets[:-1], offsets[1:], strict=True):
            record = self._record(int(index))
            fingerprints[start:stop] = record["fingerprints"]
            numbers[start:stop] = record["numbers"]
            if forces is not None and "forces" in record:
                forces[start:stop] = record["forces"]
            else:
                forces = None
        return Dataset(fingerprints, numbers, offsets, self.index.energies[chosen], forces)

    def close(self) -> None:
        """Close the file, for all stores of it in this process."""
        _, environment = _OPEN.pop((os.getpid(), self.path), (0, None))
        if environment is not None:
            environment.close()

    def _record(self, index: int) -> dict[str, Any]:
        return _unpack(self._get(_key(index)))

    def _get(self, key: bytes) -> bytes:
        try:
            with self._environment.begin(buffers=True) as transaction:
                value = transaction.get(key)
                crc, body = bytes((value or b"")[:4]), bytes((value or b"")[4:])
        except lmdb.Error as error:
            raise self._damaged(str(error)) from error
        if not crc:
            raise self._damaged(f"no record {_name(key)}")
        if zlib.crc32(body).to_bytes(4, "big") != crc:
            raise self._damaged(f"record {_name(key)} is not as it was written")
        return body

    def _damaged(self, why: str) -> StorageError:
        return StorageError(f"{self.path}: damaged store: {why}", "delete it and run again")


class StoreWriter:
    """Appends structures to a store that is being made; see `write_store`."""

    def __init__(self, path: Path) -> None:
        self._environment = lmdb.open(
            str(path), subdir=False, map_size=_FIRST_MAP_SIZE, lock=False, sync=False
        )
        self._batch: list[tuple[bytes, bytes]] = []
        self._bytes = 0
        self._rows: list[tuple[int, float, str, int, int, int]] = []
        self._formulas: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, image: Image, fingerprints: NDArray[np.float64], file_id: int) -> None:
        """Add a structure with its (atoms, features) fingerprints."""
        atoms = image.atoms
        record: dict[str, Any] = {
            "fingerprints": fingerprints,
            "numbers": atoms.numbers.astype(np.uint8),
            "positions": atoms.positions,
            "cell": np.asarray(atoms.cell),
            "pbc": atoms.pbc,
            "energy": image.energy,
        }
        if image.forces is not None:
            record["forces"] = image.forces
        formula = atoms.get_chemical_formula()
        formula_id = self._formulas.setdefault(formula, len(self._formulas))
        key = _key(len(self._rows))
        self._rows.append(
            (len(atoms), image.energy, image.geometry, formula_id, file_id, image.index)
        )
        self._put(key, _pack(record))

    def finish(self, header: dict[str, Any]) -> None:
        """Write the header and the index, and close the file."""
        atoms, energies, geometries, formula_ids, file_ids, file_indices = (
            np.array(column) for column in zip(*self._rows, strict=True)
        )
        index = {
            "atoms": atoms,
            "energies": energies,
            "geometries": np.frombuffer(bytes.fromhex("".join(geometries)), dtype=np.uint8).reshape(
                -1, _GEOMETRY_BYTES
            ),
            "formulas": list(self._formulas),
            "formula_ids": formula_ids,
            "file_ids": file_ids,
            "file_indices": file_indices,
        }
        self._put(b"index", _pack(index))
        self._put(b"header", json.dumps({"schema": SCHEMA_VERSION} | header).encode())
        self._flush()
        self._environment.sync(True)

    def close(self) -> None:
        """Close the file; a store that was not finished is not a store."""
        self._environment.close()

    def _put(self, key: bytes, body: bytes) -> None:
        self._batch.append((key, zlib.crc32(body).to_bytes(4, "big") + body))
        self._bytes += len(body)
        if self._bytes > _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._batch, self._bytes = [], 0


def is_whole(path: Path) -> bool:
    """Tell whether a store is there and its header and index can be read."""
    store = FingerprintStore(path)
    try:
        return len(store) > 0 and store.digest == path.stem
    except StorageError:
        store.close()
        return False


@contextmanager
def write_store(path: Path) -> Iterator[StoreWriter]:
    """Make a store: append to the writer, then `finish` it. Half a store is never left.

    Raises
    ------
    StorageError
        If the folder cannot be written, or the disk is full.
    """
    with atomic_path(path) as part:
        try:
            writer = StoreWriter(part)
            try:
                yield writer
            finally:
                writer.close()
        except lmdb.Error as error:
            raise _explain_lmdb(error, path) from error


def _explain_lmdb(error: lmdb.Error, path: Path) -> StorageError:
    # A write that the disk has no room to finish is an input/output error to LMDB.
    if isinstance(error, lmdb.DiskError) or shutil.disk_usage(path.parent).free < _BATCH_BYTES:
        return explain_os_error(OSError(errno.ENOSPC, "no space"), path)
    return StorageError(f"{path}: {error}", fleeting=True)


def _key(index: int) -> bytes:
    return int(index).to_bytes(8, "big")


def _name(key: bytes) -> str:
    return key.decode() if key in (b"header", b"index") else str(int.from_bytes(key, "big"))


def _pack(values: dict[str, Any]) -> bytes:
    """Arrays as [dtype, shape, bytes], everything else as msgpack has it."""

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [value.dtype.str, list(value.shape), value.tobytes()]
        return value

    packed: bytes = msgpack.packb({key: encode(value) for key, value in values.items()})
    return packed


def _unpack(body: bytes) -> dict[str, Any]:
    def decode(value: Any) -> Any:
        if isinstance(value, list) and len(value) == 3 and isinstance(value[2], bytes):
            return np.frombuffer(value[2], dtype=value[0]).reshape(value[1])
        return value

    return {key: decode(value) for key, value in msgpack.unpackb(body).items()}
