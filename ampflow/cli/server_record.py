"""Which Prefect server the user started, for every command to find it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ampflow.errors import StorageError
from ampflow.files import read_json, write_json
from ampflow.state import state_folder
from ampflow.tuning.leases import Holder, holder_of

__all__ = ["ServerRecord", "read_record"]


@dataclass(frozen=True)
class ServerRecord:
    """A server that was started.

    Parameters
    ----------
    url
        Of its API, ending in /api.
    holder
        Its process.
    secret
        What it asks for, as user:password; empty where it listens on loopback.
    """

    url: str
    holder: Holder
    secret: str

    @classmethod
    def of(cls, url: str, pid: int, secret: str) -> ServerRecord:
        """Describe a server that is a process of this machine."""
        return cls(url, holder_of("server", pid), secret)

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.holder.host.partition("/")[0]

    @property
    def pid(self) -> int:
        """Its process, on that machine."""
        return self.holder.pid

    def is_alive(self) -> bool | None:
        """Tell whether the process runs; None on another machine."""
        return self.holder.is_alive() if self.holder.is_here else None

    def write(self) -> None:
        """Keep the record, for nobody else to read.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        before = os.umask(0o077)
        try:
            write_json(_file(), asdict(self))
        finally:
            os.umask(before)

    def remove(self) -> None:
        """Forget the server."""
        _file().unlink(missing_ok=True)


def read_record() -> ServerRecord | None:
    """Return the server that was started; None if there is none."""
    with suppress(StorageError, TypeError, KeyError):
        table = read_json(_file())
        return ServerRecord(**table | {"holder": Holder(**table["holder"])})
    return None


def _file() -> Path:
    return state_folder() / "server.json"
