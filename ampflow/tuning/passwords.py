"""The password of a study's database: from the environment or a file, and shown nowhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ampflow.errors import StorageError
from ampflow.files import explain_os_error

__all__ = ["storage_password"]

_VARIABLE = "AMPFLOW_STORAGE_PASSWORD"
_FILE = "AMPFLOW_STORAGE_PASSWORD_FILE"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def storage_password() -> str | None:
    """Return the password of the database of `tuning.storage`; None where none is given.

    It is the environment variable AMPFLOW_STORAGE_PASSWORD, or else the first line of the file
    that AMPFLOW_STORAGE_PASSWORD_FILE names (`storage-password` in ampflow's configuration
    folder, `~/.config/ampflow`, where it names none), which nobody else may read.

    Raises
    ------
    StorageError
        If others may read the file, or we may not.
    """
    given = os.environ.get(_VARIABLE)
    if given:
        return given
    path = _file()
    if _FILE not in os.environ and not path.exists():
        return None
    try:
        with path.open(encoding="utf-8") as stream:
            found = os.fstat(stream.fileno())
            if found.st_mode & _OTHERS or found.st_uid != os.geteuid():
                raise StorageError(f"{path}: others may read this password", f"chmod 600 {path}")
            return stream.readline().rstrip("\n")
    except OSError as error:
        raise explain_os_error(error, path) from error


def _file() -> Path:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get(_FILE) or home / "ampflow" / "storage-password")
