"""Files of arrays in rows, each row with a checksum: what fingerprint stores are made of.

A part is one safetensors file. It has some rows (structures), and each row some items (atoms):
`row.NAME` are arrays with an entry a row, `item.NAME` arrays with an entry an item, row after row,
and `offsets` (rows + 1,) says where each row's items begin. `checksums` (rows + 1,) has a CRC-32
of each row's entries in all arrays, and last one of everything else. So each byte that means
something is under one checksum, and damage is known by its row. Parts are written beside their
final name and renamed; they are mapped into memory to be read, and read in runs of rows.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ampflow.errors import StorageError
from ampflow.files import atomic_path, explain_os_error

__all__ = ["PART_SCHEMA", "DamagedError", "Part", "write_part"]

PART_SCHEMA = 2
"""Raised whenever older programs could misread a part."""

Arrays = Mapping[str, NDArray[Any]]
_REMAKE = "delete that file and run again"


class DamagedError(StorageError):
    """A row of a part is not as it was written.

    Parameters
    ----------
    path, row
        Which; rows count from 0, and -1 is all that belongs to no row.
    """

    def __init__(self, path: Path, row: int) -> None:
        where = "its head" if row < 0 else f"record {row}"
        super().__init__(f"{path}: damaged: {where} is not as it was written", _REMAKE)
        self.path, self.row = path, row


def write_part(
    path: Path, offsets: NDArray[np.int64], rows: Arrays, items: Arrays, meta: Mapping[str, Any]
) -> None:
    """Write a part, complete or not at all.

    Parameters
    ----------
    offsets
        (rows + 1,) where each row's items begin; the last is the number of items.
    rows, items
        Arrays whose first axis is the rows, or the items.
    meta
        Anything else, as JSON can hold it.

    Raises
    ------
    StorageError
        If the folder cannot be written, or the disk is full.
    """
    arrays = {f"row.{name}": np.ascontiguousarray(array) for name, array in rows.items()}
    arrays |= {f"item.{name}": np.ascontiguousarray(array) for name, array in items.items()}
    offsets = np.asarray(offsets, dtype=np.int64)
    text = json.dumps({"schema": PART_SCHEMA} | dict(meta))
    checksums = np.append(
        _row_checksums(arrays, offsets), np.uint32(_head_checksum(text, offsets, _shapes(arrays)))
    )
    whole = arrays | {"offsets": offsets, "checksums": checksums}
    with atomic_path(path) as part:
        try:
            save_file(whole, part, metadata={"ampflow": text})
        except safetensors.SafetensorError as error:  # it wraps the system's errors
            raise _explain_writing(error, path) from error


def _row_checksums(arrays: Arrays, offsets: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Checksum of each row: its entries in all arrays, in the order of their names."""
    count = len(offsets) - 1
    sums = [0] * count
    starts = offsets - offsets[0]
    for name in sorted(arrays):
        array = arrays[name]
        per_entry = array.dtype.itemsize * math.prod(array.shape[1:])
        ends = np.arange(count + 1) if name.startswith("row.") else starts
        edges = (ends * per_entry).tolist()
        view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for row in range(count):
            sums[row] = zlib.crc32(view[edges[row] : edges[row + 1]], sums[row])
    return np.array(sums, dtype=np.uint32)


def _shapes(arrays: Arrays) -> list[Any]:
    return [[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in sorted(arrays)]


def _head_checksum(text: str, offsets: NDArray[np.int64], shapes: list[Any]) -> int:
    return zlib.crc32(offsets.tobytes(), zlib.crc32(f"{text}{json.dumps(shapes)}".encode()))


def _explain_writing(error: Exception, path: Path) -> StorageError:
    import errno
    import re

    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else errno.EIO
    # A size limit of the process is one more way to have no room.
    return explain_os_error(OSError(errno.ENOSPC if number == errno.EFBIG else number, ""), path)


class Part:
    """A part, read-only. The file is opened at first use.

    Raises
    ------
    StorageError
        At first use, if the file is missing, cut short, damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def _file(self) -> Any:
        try:
            return safetensors.safe_open(self.path, framework="np")
        except (FileNotFoundError, NotADirectoryError):
            raise StorageError(f"{self.path}: no such file", "run again to make it") from None
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        except safetensors.SafetensorError as error:
            raise StorageError(f"{self.path}: damaged: {error}", _REMAKE) from error

    @cached_property
    def _slices(self) -> dict[str, Any]:
        names = sorted(self._file.keys())
        return {name: self._file.get_slice(name) for name in names if "." in name}

    @cached_property
    def _head(self) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.uint32]]:
        try:
            text = self._file.metadata()["ampflow"]
            meta = json.loads(text)
            offsets = self._file.get_tensor("offsets")
            checksums = self._file.get_tensor("checksums")
        except (TypeError, KeyError, ValueError, safetensors.SafetensorError):
            raise DamagedError(self.path, -1) from None
        if meta.get("schema") != PART_SCHEMA:
            age = "a newer" if meta.get("schema", 0) > PART_SCHEMA else "an older"
            raise StorageError(
                f"{self.path}: written by {age} ampflow (schema {meta.get('schema')})",
                "upgrade ampflow" if age == "a newer" else _REMAKE,
            )
        shapes = [
            [name, _DTYPES.get(part.get_dtype()), part.get_shape()]
            for name, part in self._slices.items()
        ]
        if _head_checksum(text, offsets, shapes) != checksums[-1]:
            raise DamagedError(self.path, -1)
        return meta, offsets, checksums

    @property
    def meta(self) -> dict[str, Any]:
        """What was given to `write_part`, and the schema's version."""
        return self._head[0]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(rows + 1,) where each row's items begin."""
        return self._head[1]

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole array with an entry a row, unchecked: `read` checks what matters."""
        if f"row.{name}" not in self._slices:
            raise DamagedError(self.path, -1)
        array: NDArray[Any] = self._file.get_tensor(f"row.{name}")
        return array

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return all arrays for the rows from `start` to `stop`, by name.

        Raises
        ------
        DamagedError
            If one of the rows is not as it was written.
        """
        arrays, sums = self._load(start, stop)
        bad = np.flatnonzero(sums != self._head[2][start:stop])
        if len(bad):
            raise DamagedError(self.path, start + int(bad[0]))
        return {name.partition(".")[2]: array for name, array in arrays.items()}

    def damaged(self) -> list[int]:
        """Return which rows are not as they were written."""
        found: list[int] = []
        for start in range(0, len(self), _RUN):
            stop = min(start + _RUN, len(self))
            _, sums = self._load(start, stop)
            found += (start + np.flatnonzero(sums != self._head[2][start:stop])).tolist()
        return found

    def close(self) -> None:
        """Unmap the file; it is opened again when it is used again."""
        for name in ("_file", "_slices", "_head"):
            self.__dict__.pop(name, None)

    def _load(self, start: int, stop: int) -> tuple[Arrays, NDArray[np.uint32]]:
        offsets = self.offsets[start : stop + 1]
        edges = {"row": (start, stop), "item": (int(offsets[0]), int(offsets[-1]))}
        arrays = {name: self._slice(name, *edges[name.partition(".")[0]]) for name in self._slices}
        return arrays, _row_checksums(arrays, offsets)

    def _slice(self, name: str, start: int, stop: int) -> NDArray[Any]:
        part = self._slices[name]
        if start == stop:  # safetensors has no empty slices
            return np.empty((0, *part.get_shape()[1:]), dtype=_DTYPES[part.get_dtype()])
        array: NDArray[Any] = part[start:stop]
        return array


_RUN = 256  # rows checked at a time
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "I64": "<i8",
    "I32": "<i4",
    "U32": "<u4",
    "U8": "|u1",
    "BOOL": "|b1",
}
