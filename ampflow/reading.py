"""Reading files of structures, whole or in segments.

A segment is some structures of a file that can be read without the others, so that a large file is
read piece by piece, by several processes, and again only in part. ASE's trajectories and databases
find a structure by its number; of (ext)xyz files the structures' places are noted in one pass over
the lines. A file of any other format, or a compressed one, is one segment.

ASE's readers are imported where one is needed: that takes longer than reading a trajectory.
"""

from __future__ import annotations

import glob
import io
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ase import Atoms

from ampflow.errors import DataError, StorageError
from ampflow.files import explain_os_error
from ampflow.images import Frame, Image, Rejected, check_frames
from ampflow.trajectories import MAGIC, Trajectory

__all__ = [
    "Checks",
    "Segment",
    "count_images",
    "cut_file",
    "expand_files",
    "read_atoms",
    "read_checked",
    "read_images",
    "read_segment",
]


_Item = TypeVar("_Item")
_ALL = 1 << 60  # structures, or bytes
_TOGETHER = 64  # structures checked at a time

Checks = tuple[float, frozenset[int]]
"""The smallest distance between atoms (Å), and the atomic numbers that have a density."""


@dataclass(frozen=True)
class Segment:
    """Structures of a file that can be read without the others.

    Parameters
    ----------
    start, stop
        The structures, counted from 0; `stop` is None where the file ends at a place unknown yet.
    size
        Bytes, at least about.
    offset
        Where in the file it begins, in bytes, if it is read by place and not by number.
    """

    start: int
    stop: int | None
    size: int
    offset: int = 0


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
            if found:
                raise DataError(f"{pattern}: a folder", f"name its files: '{pattern}/*.traj'")
            raise DataError(
                f"{pattern}: no such file", "check the path (FILES, --data, or data.files)"
            )
        files += matches
    counts = Counter(path.resolve() for path in files)
    twice = [path for path in files if counts[path.resolve()] > 1]
    if twice:
        raise DataError(f"{twice[0]}: named twice", "name each file once in [data]")
    return files


def cut_file(file: Path, most: int, most_bytes: int) -> list[Segment]:
    """Cut a file into segments of at most `most` structures and about `most_bytes`.

    Only what can be found out quickly is: files that cannot be cut are one segment.

    Raises
    ------
    StorageError
        If the file cannot be opened.
    """
    try:
        size = file.stat().st_size
        cut = _CUTTERS.get(_format(file))
        segments = None if cut is None else cut(file, size, most, most_bytes)
    except OSError as error:
        if error.errno:
            raise explain_os_error(error, file) from error
        segments = None
    except Exception:  # reading it will say what is wrong
        segments = None
    return segments or [Segment(0, None, size)]


def count_images(files: list[Path]) -> int | None:
    """Count the structures of `files` without reading them; None where a format cannot tell."""
    last = [cut_file(file, _ALL, _ALL)[-1].stop for file in files]
    return None if None in last else sum(stop or 0 for stop in last)


def read_segment(file: Path, segment: Segment) -> Iterator[tuple[int, Atoms | Rejected]]:
    """Read structures one by one, each with its number in the file.

    What ASE cannot read is a `Rejected`; it ends the segment if the format cannot go on after it.

    Raises
    ------
    StorageError
        If the disk fails: that is not the structure's fault.
    """
    read = _whole if segment.stop is None else _READERS[_format(file)]
    return _numbered(file, segment.start, read(file, segment))


def _numbered(
    file: Path, number: int, items: Iterator[_Item | Exception]
) -> Iterator[tuple[int, _Item | Rejected]]:
    """Give structures their numbers; say what went wrong where one could not be read."""
    try:
        for item in items:
            yield number, _unreadable(file, number, item) if isinstance(item, Exception) else item
            number += 1
    except (StorageError, MemoryError):
        raise
    except OSError as error:
        if error.errno:  # the disk's fault, not the file's
            raise explain_os_error(error, file) from error
        yield number, _unreadable(file, number, error)
        return
    except Exception as error:  # ASE's readers raise anything at all
        yield number, _unreadable(file, number, error)
        return
    if number == 0:
        yield 0, Rejected(file, 0, "the file has no structures", _READ_HINT)


def read_atoms(file: Path) -> Iterator[Atoms | Rejected]:
    """Read the structures of a file as they are; see `read_segment`."""
    for segment in cut_file(file, _ALL, _ALL):
        for _, item in read_segment(file, segment):
            yield item


def read_images(files: list[Path], checks: Checks) -> Iterator[Image | Rejected]:
    """Read `files`, checking each structure."""
    for file in files:
        for segment in cut_file(file, _ALL, _ALL):
            for found in read_checked(file, segment, checks):
                yield from found


def read_checked(file: Path, segment: Segment, checks: Checks) -> Iterator[list[Image | Rejected]]:
    """Read structures some at a time, checking each.

    Raises
    ------
    StorageError
        If the disk fails.
    """
    frames = _numbered(file, segment.start, _frames(file, segment))
    while some := list(islice(frames, _TOGETHER)):
        yield check_frames(some, file, *checks)


def _format(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) == MAGIC:  # ASE would try the marks of all formats
            return "traj"
    from ase.io.formats import filetype, get_compression

    return "" if get_compression(str(file))[1] else str(filetype(str(file)))


def _cut_evenly(count: int, size: int, most: int, most_bytes: int) -> list[Segment]:
    """Cut a file of structures that are about equally large."""
    each = max(1, min(most, most_bytes * count // max(size, 1)))
    starts = range(0, count, each)
    return [
        Segment(start, min(start + each, count), size * min(each, count - start) // count)
        for start in starts
    ]


def _cut_trajectory(file: Path, size: int, most: int, most_bytes: int) -> list[Segment]:
    with Trajectory(file) as trajectory:
        return _cut_evenly(len(trajectory), size, most, most_bytes)


def _cut_database(file: Path, size: int, most: int, most_bytes: int) -> list[Segment]:
    from ase.db import connect

    return _cut_evenly(connect(str(file)).count(), size, most, most_bytes)


def _cut_xyz(file: Path, size: int, most: int, most_bytes: int) -> list[Segment] | None:
    """Note where structures begin. A file that does not look like one is not cut."""
    segments: list[Segment] = []
    start = offset = number = 0
    with file.open("rb") as stream:
        for number, end in enumerate(_xyz_ends(stream), 1):
            if number - start == most or end - offset >= most_bytes:
                segments.append(Segment(start, number, end - offset, offset))
                start, offset = number, end
        whole = stream.tell() >= size
    if number > start:
        segments.append(Segment(start, number, size - offset, offset))
    return segments if whole else None


def _xyz_ends(stream: BinaryIO) -> Iterator[int]:
    """Yield where each structure ends; stop before what is none.

    A structure is a line with the number of atoms, a comment, and a line an atom. Lines of
    cells (VEC1 to VEC3) and blank ones may follow.
    """
    position = stream.tell()
    line = stream.readline()
    while line.strip():
        try:
            count = int(line)
        except ValueError:
            stream.seek(position)
            return
        deque(islice(stream, count + 1), maxlen=0)
        position = stream.tell()
        line = stream.readline()
        while line.lstrip().startswith(b"VEC"):
            position = stream.tell()
            line = stream.readline()
        yield position
        stream.seek(position)
        line = stream.readline()
    stream.seek(0, io.SEEK_END)


_CUTTERS: dict[str, Callable[[Path, int, int, int], list[Segment] | None]] = {
    "traj": _cut_trajectory,
    "db": _cut_database,
    "extxyz": _cut_xyz,
}


def _whole(file: Path, segment: Segment) -> Iterator[Atoms]:
    from ase.io import iread

    yield from iread(str(file.absolute()), index=":")


def _trajectory(file: Path, segment: Segment) -> Iterator[Atoms | Exception]:
    with Trajectory(file) as trajectory:
        for number in range(segment.start, segment.stop or 0):
            yield _attempt(trajectory.by_ase, number)


def _frames(file: Path, segment: Segment) -> Iterator[Frame | Exception]:
    """Read structures as arrays, without ASE where that can be."""
    if segment.stop is not None and _format(file) == "traj":
        with Trajectory(file) as trajectory:
            for number in range(segment.start, segment.stop):
                yield trajectory.frame(number) or _framed(_attempt(trajectory.by_ase, number))
    else:
        read = _whole if segment.stop is None else _READERS[_format(file)]
        yield from map(_framed, read(file, segment))


def _framed(item: Atoms | Exception) -> Frame | Exception:
    return item if isinstance(item, Exception) else _attempt(Frame.of, item)


def _database(file: Path, segment: Segment) -> Iterator[Atoms | Exception]:
    from ase.db import connect
    from ase.db.row import AtomsRow

    count = (segment.stop or 0) - segment.start
    with connect(str(file), serial=True) as database:
        for row in database.select(offset=segment.start, limit=count):
            yield _attempt(AtomsRow.toatoms, row)


def _xyz(file: Path, segment: Segment) -> Iterator[Atoms | Exception]:
    with file.open("rb") as stream:
        stream.seek(segment.offset)
        begin = segment.offset
        for _, end in zip(range(segment.start, segment.stop or 0), _xyz_ends(stream), strict=False):
            stream.seek(begin)
            text = stream.read(end - begin)
            yield _attempt(_read_xyz, text)
            begin = end


def _read_xyz(text: bytes) -> Atoms:
    from ase.io.extxyz import read_xyz

    atoms: Atoms = next(read_xyz(io.StringIO(text.decode()), 0))
    return atoms


_READERS: dict[str, Callable[[Path, Segment], Iterator[Atoms | Exception]]] = {
    "traj": _trajectory,
    "db": _database,
    "extxyz": _xyz,
}


def _attempt(read: Callable[[Any], _Item], what: Any) -> _Item | Exception:
    """Read a structure; if that fails by its own fault, the reader can go on with the next."""
    try:
        return read(what)
    except MemoryError:
        raise
    except Exception as error:  # ASE's readers raise anything at all
        if isinstance(error, OSError) and error.errno:
            raise
        return error


def _unreadable(file: Path, number: int, error: Exception) -> Rejected:
    why = f"{type(error).__name__}: {error}".removesuffix(": ")
    return Rejected(file, number, f"ASE cannot read it ({why})", _READ_HINT)


_READ_HINT = (
    "check that the file is whole and in a format ASE knows (ase info --formats), "
    'or data.on_bad = "skip"'
)
