"""Files of arrays in rows, each row with a checksum: what fingerprint stores are made of.

A part is one LMDB file (see `values`). It has some rows (structures), and each row some items
(atoms): `row.NAME` are arrays with an entry a row, `item.NAME` arrays with an entry an item, row
after row, and `offsets` (rows + 1,) says where each row's items begin. `checksums` (rows + 1,) has
a CRC-32 of each row's entries in all arrays, and last one of everything else. So each byte that
means something is under one checksum, and damage is known by its row. `head` has all else as
JSON, and types and shapes. Parts are written beside their final name and renamed; they are
read in runs of rows.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import StorageError
from ampflow.files import atomic_path
from ampflow.values import (
    LONG,
    REMAKE,
    MissingValueError,
    close_values,
    read_value,
    stamp_of,
    write_values,
)

__all__ = ["PART_SCHEMA", "DamagedError", "Part", "write_part"]

PART_SCHEMA = 4
"""Raised whenever older programs could misread a part."""

Arrays = Mapping[str, NDArray[Any]]
_HEAD = b"head"


class DamagedError(StorageError):
    """A row of a part is not as it was written.

    Parameters
    ----------
    path, row
        Which; rows count from 0, and -1 is all that belongs to no row.
    """

    def __init__(self, path: Path, row: int) -> None:
        where = "its head" if row < 0 else f"record {row}"
        super().__init__(f"{path}: damaged: {where} is not as it was written", REMAKE)
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
    # Shorter values would lie among LMDB's own bytes, and their damage be that of the whole file.
    values = {name.encode(): whole[name].tobytes().ljust(LONG, b"\0") for name in sorted(whole)}
    values[_HEAD] = json.dumps([text, _shapes(whole)]).encode()
    with atomic_path(path) as part:
        write_values(part, values)


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


_Kind = tuple[np.dtype[Any], tuple[int, ...]]


class _Head(NamedTuple):
    meta: dict[str, Any]
    offsets: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    columns: dict[str, _Kind]


class Part:
    """A part, read-only. The file is opened at first use.

    Raises
    ------
    StorageError
        At first use, if the file is missing, cut short, damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, ...] = ()
        self._checked = np.zeros(0, bool)  # rows of the file of that stamp

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def _head(self) -> _Head:
        try:
            text, shapes = json.loads(read_value(self.path, _HEAD))
            meta = json.loads(text)
            arrays = {name: (np.dtype(dtype), tuple(shape)) for name, dtype, shape in shapes}
        except MissingValueError:
            raise DamagedError(self.path, -1) from None
        except (TypeError, ValueError):
            raise DamagedError(self.path, -1) from None
        if meta.get("schema") != PART_SCHEMA:
            age = "a newer" if meta.get("schema", 0) > PART_SCHEMA else "an older"
            raise StorageError(
                f"{self.path}: written by {age} ampflow (schema {meta.get('schema')})",
                "upgrade ampflow" if age == "a newer" else REMAKE,
            )
        offsets, checksums = (self._array(name, arrays) for name in ("offsets", "checksums"))
        columns = {name: arrays[name] for name in sorted(arrays) if "." in name}
        listed = [[name, dtype.str, list(shape)] for name, (dtype, shape) in columns.items()]
        if _head_checksum(text, offsets, listed) != checksums[-1]:
            raise DamagedError(self.path, -1)
        return _Head(meta, offsets, checksums, columns)

    @property
    def meta(self) -> dict[str, Any]:
        """What was given to `write_part`, and the schema's version."""
        return self._head.meta

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(rows + 1,) where each row's items begin."""
        return self._head.offsets

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole array with an entry a row, unchecked: `read` checks what matters."""
        if f"row.{name}" not in self._head.columns:
            raise DamagedError(self.path, -1)
        return self._array(f"row.{name}", self._head.columns)

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return all arrays for the rows from `start` to `stop`, by name.

        Rows are checked when they are read first, and again once the file has changed.

        Raises
        ------
        DamagedError
            If one of the rows is not as it was written.
        """
        if (stamp := stamp_of(self.path)) != self._stamp:
            self._stamp, self._checked = stamp, np.zeros(len(self), bool)
        arrays = self._load(start, stop)
        if not self._checked[start:stop].all():
            bad = self._bad(arrays, start, stop)
            if len(bad):
                raise DamagedError(self.path, start + int(bad[0]))
            self._checked[start:stop] = True
        return {name.partition(".")[2]: array for name, array in arrays.items()}

    def damaged(self) -> list[int]:
        """Return which rows are not as they were written."""
        found: list[int] = []
        for start in range(0, len(self), _RUN):
            stop = min(start + _RUN, len(self))
            found += (start + self._bad(self._load(start, stop), start, stop)).tolist()
        return found

    def close(self) -> None:
        """Forget what was read, and close the file; it is read again when it is used again."""
        self.__dict__.pop("_head", None)
        close_values(self.path)

    def _load(self, start: int, stop: int) -> Arrays:
        edges = {"row": (start, stop), "item": tuple(self.offsets[[start, stop]].tolist())}
        columns = self._head.columns
        return {name: self._array(name, columns, edges[name.partition(".")[0]]) for name in columns}

    def _bad(self, arrays: Arrays, start: int, stop: int) -> NDArray[np.int64]:
        """Return which of the rows that were read are not as they were written, from 0."""
        sums = _row_checksums(arrays, self.offsets[start : stop + 1])
        return np.flatnonzero(sums != self._head.checksums[start:stop])

    def _array(
        self, name: str, arrays: Mapping[str, _Kind], run: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        """Return an array, or a run of its entries."""
        try:
            dtype, shape = arrays[name]
            start, stop = run or (0, shape[0])
            entry = dtype.itemsize * math.prod(shape[1:])
            content = read_value(self.path, name.encode(), start * entry, stop * entry)
        except (KeyError, MissingValueError):
            raise DamagedError(self.path, -1) from None
        if len(content) != (stop - start) * entry:
            raise DamagedError(self.path, -1)
        return np.frombuffer(content, dtype=dtype).reshape(stop - start, *shape[1:])


_RUN = 256  # rows checked at a time
