"""Files of named values: LMDB environments that are written once and then only read.

LMDB itself maps a file into memory and trusts it: a failing disk, a file that was cut short, or a
wrong byte in the pages that say where values are could end the process, and its Python module goes
through all pages of a value whose first bytes are asked for. So they are read without it, at the
places that its pages say. Such a file ends with a trailer, which LMDB does not look at: the file's
length, and a CRC-32 of all its bytes but those of long values, which have checksums of their own.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import lmdb

from ampflow.errors import StorageError
from ampflow.files import explain_os_error

__all__ = [
    "LONG",
    "REMAKE",
    "MissingValueError",
    "close_values",
    "read_value",
    "stamp_of",
    "write_values",
]

LONG = 2048
"""Bytes from which on a value has pages of its own."""

REMAKE = "delete that file and run again"

_PAGE = 4096
_TRAILER = struct.Struct("<8sQI")
_MAGIC = b"ampflow1"
# The head of a page in LMDB's file: its number, padding, flags, and the pages of a long value.
_PAGE_HEAD = struct.Struct("<QHHI")
_LEAF, _LONG_VALUE = 0x02, 0x04
# That of a node in a leaf: the value's size, flags, and the name's length.
_NODE = struct.Struct("<IHH")
_BIG = 0x01
_MOST_OPEN = 64  # files, of which each holds a descriptor

_open: OrderedDict[tuple[int, int, int], _File] = OrderedDict()  # by process and file
_lock = threading.Lock()


class MissingValueError(KeyError):
    """A file has no value of this name."""


def write_values(path: Path, values: Mapping[bytes, bytes]) -> None:
    """Write a new file of `values`, to be renamed into place by the caller.

    Raises
    ------
    OSError
        If it cannot be written, or the disk is full.
    """
    pages = sum(len(value) // _PAGE + 2 for value in values.values())
    try:
        environment = lmdb.open(
            str(path),
            subdir=False,
            lock=False,
            map_size=_PAGE * (pages + 64),
            max_dbs=0,
            sync=False,  # the disk is waited for once, below
        )
        try:
            with environment.begin(write=True) as transaction:
                for name, value in values.items():
                    transaction.put(name, value)
        finally:
            environment.close()
    except lmdb.Error as error:
        raise _system_error(error, path, _PAGE * pages) from error
    with path.open("rb+") as stream:
        length = stream.seek(0, os.SEEK_END)
        trailer = _TRAILER.pack(_MAGIC, length, _skeleton(stream.fileno(), length)[0])
        stream.seek(length)
        stream.write(trailer)
        stream.flush()
        os.fsync(stream.fileno())


def read_value(path: Path, name: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """Return a value of a file, or some of its bytes.

    Raises
    ------
    MissingValueError
        If there is none of this name.
    StorageError
        If the file is missing, or not as it was written, or the disk fails.
    """
    with _lock:
        file = _opened(path)
        if name not in file.places:
            raise MissingValueError(name)
        place, size = file.places[name]
        begin, end, _ = slice(start, stop).indices(size)
        try:
            return _bytes(file.descriptor, place + begin, max(end - begin, 0))
        except OSError as error:
            raise explain_os_error(error, path) from error


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written over, or another is in its place.

    Raises
    ------
    StorageError
        If there is none.
    """
    found = _stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def close_values(path: Path) -> None:
    """Close a file that was read; it is opened again when it is read again."""
    try:
        found = path.stat()
    except OSError:
        return
    with _lock:
        opened = _open.pop((os.getpid(), found.st_dev, found.st_ino), None)
        if opened is not None:
            os.close(opened.descriptor)


def _bytes(descriptor: int, place: int, size: int) -> bytes:
    """Read bytes; fewer where the file ends, or more than the system hands over at once."""
    found = os.pread(descriptor, size, place)
    while 0 < len(found) < size:
        more = os.pread(descriptor, size - len(found), place + len(found))
        if not more:
            break
        found += more
    return found


class _File(NamedTuple):
    """An open file.

    Parameters
    ----------
    stamp
        Its size and time.
    places
        Where each value begins, and its bytes.
    """

    stamp: tuple[int, int]
    descriptor: int
    places: dict[bytes, tuple[int, int]]


def _opened(path: Path) -> _File:
    found = _stat(path)
    key = (os.getpid(), found.st_dev, found.st_ino)
    stamp = (found.st_size, found.st_mtime_ns)
    if key in _open and _open[key].stamp != stamp:
        os.close(_open.pop(key).descriptor)  # written over: values may be elsewhere
    if key not in _open:
        if len(_open) >= _MOST_OPEN:
            oldest, least = _open.popitem(last=False)
            if oldest[0] == os.getpid():  # else of a parent process, which has it still
                os.close(least.descriptor)
        descriptor = _open_file(path)
        try:
            places = _checked(path, descriptor, os.fstat(descriptor).st_size)
        except BaseException:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_ino != found.st_ino:  # replaced by another writer just now
            os.close(descriptor)
            return _opened(path)
        _open[key] = _File(stamp, descriptor, places)
    _open.move_to_end(key)
    return _open[key]


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise explain_os_error(error, path) from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{path}: no such file", "run again to make it") from None
    except OSError as error:
        raise explain_os_error(error, path) from error


def _checked(path: Path, descriptor: int, size: int) -> dict[bytes, tuple[int, int]]:
    """Return where the values are, if all that says so is as it was written."""
    try:
        trailer = _bytes(descriptor, max(0, size - _TRAILER.size), _TRAILER.size)
        if len(trailer) != _TRAILER.size or not trailer.startswith(_MAGIC):
            raise StorageError(f"{path}: damaged: cut short, or no file of ampflow", REMAKE)
        _, length, expected = _TRAILER.unpack(trailer)
        skeleton, places = _skeleton(descriptor, length)
    except OSError as error:
        raise explain_os_error(error, path) from error
    if length + _TRAILER.size != size or skeleton != expected:
        raise StorageError(f"{path}: damaged: its head is not as it was written", REMAKE)
    return places


def _skeleton(descriptor: int, length: int) -> tuple[int, dict[bytes, tuple[int, int]]]:
    """Return the checksum of all pages, and of no more than the heads of long values; and places.

    Places are those of values by name, as `_File` has them.
    """
    checksum, page, places = 0, 0, dict[bytes, tuple[int, int]]()
    while page * _PAGE < length:
        head = os.pread(descriptor, _PAGE_HEAD.size, page * _PAGE)
        if len(head) < _PAGE_HEAD.size:
            break
        _, _, flags, pages = _PAGE_HEAD.unpack(head)
        is_long = bool(flags & _LONG_VALUE) and pages > 0
        content = head if is_long else os.pread(descriptor, _PAGE, page * _PAGE)
        checksum = zlib.crc32(content, checksum)
        if flags & _LEAF:
            places |= _leaf(content, page, pages & 0xFFFF)
        page += pages if is_long else 1
    return checksum, places


def _leaf(page: bytes, number: int, lower: int) -> dict[bytes, tuple[int, int]]:
    """Return the places of the values that a leaf of LMDB's tree names.

    Behind the page's head, up to `lower`, is where its nodes are; a node has the value's size, its
    name, and then the value, or the number of the page where a long one begins.
    """
    found = {}
    for at in range(_PAGE_HEAD.size, min(lower, _PAGE - 1), 2):
        node = int.from_bytes(page[at : at + 2], "little")
        if node + _NODE.size > len(page):  # damaged: the checksum will not fit
            continue
        size, flags, length = _NODE.unpack_from(page, node)
        begin = node + _NODE.size + length
        name, place = page[node + _NODE.size : begin], number * _PAGE + begin
        if flags & _BIG:
            place = int.from_bytes(page[begin : begin + 8], "little") * _PAGE + _PAGE_HEAD.size
        found[name] = place, size
    return found


def _system_error(error: lmdb.Error, path: Path, needed: int) -> OSError:
    """Return the system's error that LMDB wraps, by its words."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(path))
    # A limit of the process is no room either; and where only a part of the last write had room,
    # LMDB calls it an input/output error.
    if os.strerror(errno.EFBIG) in str(error) or shutil.disk_usage(path.parent).free < needed:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return OSError(errno.EIO, str(error), str(path))
