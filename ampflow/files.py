"""Writing files so that they are complete or absent, never half."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ampflow.errors import StorageError

__all__ = ["atomic_path", "explain_os_error", "read_json", "write_json", "write_text"]


_WRITABLE = "choose a folder you can write with --out"
_FREE = "free some space, or choose another folder with --out"
_REASONS = {
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("your disk quota is used up", _FREE),
    errno.EROFS: ("the file system is read-only", _WRITABLE),
    errno.EACCES: ("permission denied", ""),
    errno.EPERM: ("permission denied", ""),
    errno.ENOENT: ("no such file or folder", ""),
}
_DAY = 86400.0
_FLEETING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY, errno.EINTR}


def explain_os_error(error: OSError, path: Path, hint: str = "check the path") -> StorageError:
    """Say in a user's words why `path` could not be read, or written.

    Parameters
    ----------
    hint
        What to try where the reason does not say it.
    """
    reason, cure = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
    return StorageError(f"{path}: {reason}", cure or hint, fleeting=error.errno in _FLEETING)


@contextmanager
def atomic_path(path: Path, folder: bool = False) -> Iterator[Path]:
    """Yield a path to write to; rename it to `path` on success, remove it on failure.

    The temporary file or folder lies beside `path`, so that the rename is atomic. What is at
    `path` is replaced; but never a folder by a file, nor one with anything else in it than the
    new folder has (or has under another number).

    Parameters
    ----------
    folder
        Whether a folder is written.

    Raises
    ------
    StorageError
        If something would be lost, the folder cannot be written, or the disk is full.
    """
    if path.exists() and path.is_dir() != folder:
        kind = "file" if folder else "folder"
        raise StorageError(f"{path}: there is a {kind} of this name", "choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise explain_os_error(error, path, _WRITABLE) from error
    part = scratch / path.name
    try:
        yield part
        _put(part, path, scratch)
    except OSError as error:
        raise explain_os_error(error, path, _WRITABLE) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put(part: Path, path: Path, scratch: Path) -> None:
    """Rename `part` to `path`, moving a folder of the same kind that is there aside."""
    for attempt in range(10):
        with contextlib.suppress(FileNotFoundError):
            if part.is_dir() and path.is_dir():
                _keep_strangers(part, path)
                path.rename(scratch / f"replaced{attempt}")
        try:
            part.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise OSError(errno.EBUSY, "others keep writing it")


def _keep_strangers(new: Path, old: Path) -> None:
    """Refuse to replace a folder that has what the new one lacks; numbers in names may differ."""
    known = {re.sub(r"\d+", "0", found.name) for found in new.iterdir()}
    names = sorted(found.name for found in old.iterdir() if not found.name.startswith(".nfs"))
    if strangers := [name for name in names if re.sub(r"\d+", "0", name) not in known]:
        raise StorageError(
            f"{old}: not replaced, as {', '.join(strangers[:3])} would be lost",
            "move that away, or choose another folder",
        )


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left behind that were killed, a day ago or longer."""
    for left in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON atomically.

    Raises
    ------
    ValueError
        If it holds NaN or infinity, which JSON has no word for.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    StorageError
        If the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise StorageError(
            f"{path}: not valid JSON ({error})", "delete it and run again"
        ) from error
