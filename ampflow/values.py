"""Files of named values: LMDB environments that are written once and then only read.

LMDB maps a file into memory and trusts it: a file that was cut short or has a wrong byte in the
pages that say where values are could end the process. So such a file ends with a trailer, which
LMDB does not look at: the file's length, and a CRC-32 of all its bytes but those of long values,
which have checksums of their own. Both are checked before LMDB opens the file.
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

import lmdb

from ampflow.errors import StorageError
from ampflow.files import explain_os_error

__all__ = ["LONG", "REMAKE", "MissingValueError", "close_values", "read_value", "write_values"]

LONG = 2048
"""Bytes from which on a value has pages of its own."""

REMAKE = "delete that file and run again"

_PAGE = 4096
_TRAILER = struct.Struct("<8sQI")
_MAGIC = b"ampflow1"
# The head of a page in LMDB's file: its number, padding, flags, and the pages of a long value.
_PAGE_HEAD = struct.Struct("<QHHI")
_LONG_VALUE = 0x04
_MOST_OPEN = 64  # files, of which each holds a descriptor

_open: OrderedDict[tuple[int, int, int], tuple[tuple[int, int], lmdb.Environment]] = (
    OrderedDict()
)  # by process and file: its size and time, and the environment
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
        trailer = _TRAILER.pack(_MAGIC, length, _skeleton(stream.fileno(), length))
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
        If the file is missing, or not as it was written.
    """
    with _lock, _environment(path).begin(buffers=True) as transaction:
        value = transaction.get(name)
        if value is None:
            raise MissingValueError(name)
        return bytes(value[start:stop])


def close_values(path: Path) -> None:
    """Close a file that was read, so that it is no longer mapped: what is mapped counts as memory.

    It is opened again when it is read again.
    """
    try:
        found = path.stat()
    except OSError:
        return
    with _lock:
        opened = _open.pop((os.getpid(), found.st_dev, found.st_ino), None)
        if opened is not None:
            opened[1].close()


def _environment(path: Path) -> lmdb.Environment:
    """Return the open file; a process may open one only once, and holds only some open."""
    found = _stat(path)
    key = (os.getpid(), found.st_dev, found.st_ino)
    stamp = (found.st_size, found.st_mtime_ns)
    if key in _open and _open[key][0] != stamp:
        _open.pop(key)[1].close()  # written over: what is mapped may not be there any more
    if key not in _open:
        if len(_open) >= _MOST_OPEN:
            oldest, (_, least) = _open.popitem(last=False)
            if oldest[0] == os.getpid():  # else of a parent process, which has it still
                least.close()
        environment = _opened(path, found.st_size)
        if _stat(path).st_ino != found.st_ino:  # replaced by another writer just now
            environment.close()
            return _environment(path)
        _open[key] = stamp, environment
    _open.move_to_end(key)
    return _open[key][1]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{path}: no such file", "run again to make it") from None
    except OSError as error:
        raise explain_os_error(error, path) from error


def _opened(path: Path, size: int) -> lmdb.Environment:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, size - _TRAILER.size))
            trailer = stream.read()
            if len(trailer) != _TRAILER.size or not trailer.startswith(_MAGIC):
                raise StorageError(f"{path}: damaged: cut short, or no file of ampflow", REMAKE)
            _, length, skeleton = _TRAILER.unpack(trailer)
            whole = length + _TRAILER.size == size
            if not whole or _skeleton(stream.fileno(), length) != skeleton:
                raise StorageError(f"{path}: damaged: its head is not as it was written", REMAKE)
        return lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=False, max_dbs=0
        )
    except OSError as error:
        raise explain_os_error(error, path) from error
    except lmdb.Error as error:
        raise StorageError(f"{path}: damaged: {error}", REMAKE) from error


def _skeleton(descriptor: int, length: int) -> int:
    """Return the checksum of all pages, and of no more than the heads of long values."""
    checksum, page = 0, 0
    while page * _PAGE < length:
        head = os.pread(descriptor, _PAGE_HEAD.size, page * _PAGE)
        if len(head) < _PAGE_HEAD.size:
            break
        _, _, flags, pages = _PAGE_HEAD.unpack(head)
        is_long = bool(flags & _LONG_VALUE) and pages > 0
        content = head if is_long else os.pread(descriptor, _PAGE, page * _PAGE)
        checksum = zlib.crc32(content, checksum)
        page += pages if is_long else 1
    return checksum


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
