"""ASE's trajectories, read straight into arrays.

A trajectory is a file in ASE's ULM format: a header that says where each structure's description
is, and for each structure arrays and then their description as JSON (ase.io.ulm has the layout).
ASE itself makes objects of everything in it, which takes far longer than reading. Here only what a
store needs is looked at, and only where it is as ASE writes it; all else is left to ASE.
"""

from __future__ import annotations

import json
import math
import os
import struct
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.images import Frame, voigt

if TYPE_CHECKING:
    from ase.io.trajectory import TrajectoryReader

__all__ = ["MAGIC", "Trajectory"]

MAGIC = b"- of UlmASE-Trajectory"
"""What a trajectory begins with."""

_HEADER = struct.Struct("<24sqqq")  # magic and tag, version, number of structures, their table
_LENGTH = struct.Struct("<q")


class Trajectory:
    """A trajectory, of which frames are taken by number.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._stream = file, file.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if "_reader" in self.__dict__:
            self._reader.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def frame(self, number: int) -> Frame | None:
        """Return a structure; None if it is not as ASE writes it, so that ASE has to read it.

        Raises
        ------
        OSError
            If the disk fails.
        """
        try:
            return self._frame(self._item(number))
        except (KeyError, TypeError, ValueError, IndexError, struct.error):
            return None

    def by_ase(self, number: int) -> Atoms:
        """Return a structure as ASE reads it, which raises anything at all."""
        atoms: Atoms = self._reader[number]
        return atoms

    @cached_property
    def _reader(self) -> TrajectoryReader:
        from ase.io.trajectory import TrajectoryReader  # imports for longer than most files take

        return TrajectoryReader(str(self._file))

    def _frame(self, item: dict[str, Any]) -> Frame:
        # Numbers and pbc that all structures share are written with the first one only.
        shared = item if "numbers." in item else self._first
        results = item.get("calculator.", {})
        energy, pbc = results.get("energy"), np.array(shared["pbc"])
        cell = np.array(item["cell"], dtype=np.float64)
        numbers = self._array(shared["numbers."], "i")
        positions = self._array(item["positions."], "f")
        forces = self._array(results["forces."], "f") if "forces." in results else None
        stress = self._array(results["stress."], "f") if "stress." in results else None
        usual = (
            # An array has a point behind its name.
            not {"numbers", "calculator"} & item.keys()
            and not {"energy.", "forces", "stress"} & results.keys()
            and isinstance(energy, float | int | None)
            and numbers.shape == (len(numbers),)
            and positions.shape == (len(numbers), 3)
            and cell.shape == (3, 3)
            and pbc.shape == (3,)
            and pbc.dtype == np.bool_
        )
        if not usual:
            raise ValueError
        number = None if energy is None else float(energy)
        found = None if stress is None else voigt(stress)
        return Frame(numbers.astype(np.int64), positions, cell, pbc, number, forces, found)

    @cached_property
    def _first(self) -> dict[str, Any]:
        return self._item(0)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        magic, _, count, table = _HEADER.unpack(self._bytes(0, _HEADER.size))
        if magic.rstrip() != MAGIC:
            raise ValueError
        return np.frombuffer(self._bytes(table, 8 * count), dtype="<i8")

    def _item(self, number: int) -> dict[str, Any]:
        offset = int(self._offsets[number])
        (length,) = _LENGTH.unpack(self._bytes(offset, _LENGTH.size))
        item: dict[str, Any] = json.loads(self._bytes(offset + _LENGTH.size, length).decode())
        if not item.get("_little_endian", True):
            raise ValueError
        return item

    def _array(self, described: dict[str, Any], kind: str) -> NDArray[Any]:
        shape, name, offset = described["ndarray"]
        dtype = np.dtype(name).newbyteorder("<")
        if dtype.kind != kind:
            raise ValueError
        count = math.prod(shape)
        array = np.frombuffer(self._bytes(offset, count * dtype.itemsize), dtype).reshape(shape)
        return array.astype(np.float64, copy=False) if kind == "f" else array

    def _bytes(self, offset: int, size: int) -> bytes:
        found = os.pread(self._stream.fileno(), size, offset)
        if len(found) != size:
            raise ValueError
        return found
