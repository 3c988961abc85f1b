"""Who works on what: a small file for each piece of work, which dies with its holder.

Databases and journals cannot tell a trial that is being trained from one whose worker was
killed. A lease can, on every storage: it is a file `<key>.<generation>` in a folder that all
workers share. Creating it (exclusively, so that exactly one succeeds) is the claim. Its holder
touches it every few seconds. When the holder is gone, whoever creates the next generation has
the work; a late holder finds that file and drops the work.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

from ampflow.files import explain_os_error

__all__ = ["GRACE", "Holder", "Lease", "LeaseLost", "Leases", "holder_of", "keep_alive"]

GRACE = 120.0
"""Seconds without a sign of life after which the work of a holder elsewhere may be taken."""

_BEAT = 5.0  # seconds between two signs of life
_CLOCK = 5.0  # seconds by which two looks at a process's start time may differ


class LeaseLost(Exception):  # noqa: N818 - nothing went wrong: someone else has the work now
    """The work was taken over by somebody else."""


@dataclass(frozen=True)
class Holder:
    """Who has a lease.

    Parameters
    ----------
    worker
        Its name.
    host
        The machine, and within it what process numbers refer to.
    pid, started
        The process, and when it started (seconds since 1970), as numbers are used again.
    job
        The batch job that the process belongs to, as Slurm or PBS call it; empty outside of one.
    """

    worker: str
    host: str
    pid: int
    started: float
    job: str = ""

    @classmethod
    def here(cls, worker: str) -> Holder:
        """Describe this process."""
        return holder_of(worker, os.getpid())

    @property
    def is_here(self) -> bool:
        """Whether its process number means something on this machine."""
        return self.host == _host()

    def is_alive(self) -> bool:
        """Tell whether the process still runs. Only for a holder that `is_here`."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _CLOCK
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def holder_of(worker: str, pid: int) -> Holder:
    """Describe a process of this machine, in this process's batch job."""
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID", "")
    return Holder(worker, _host(), pid, psutil.Process(pid).create_time(), job)


@cache
def _host() -> str:
    """Name the machine by its name, its boot and its process namespace (containers have own)."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # not Linux: the name alone
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


@dataclass(frozen=True)
class Lease:
    """One generation of the lease on one piece of work."""

    folder: Path
    key: str
    generation: int

    @property
    def path(self) -> Path:
        """The file."""
        return _path(self.folder, self.key, self.generation)

    def check(self) -> None:
        """See that the work is still ours.

        Raises
        ------
        LeaseLost
            If somebody took it over, or finished it.
        """
        if self.is_lost():
            raise LeaseLost(self.key)

    def is_lost(self) -> bool:
        """Tell whether somebody took the work over, or finished it."""
        following = _path(self.folder, self.key, self.generation + 1)
        return following.exists() or not self.path.exists()

    def release(self) -> None:
        """Give the work back unfinished, for anybody to take at once."""
        with suppress(FileNotFoundError):
            os.utime(self.path, (0, 0))

    def finish(self) -> None:
        """Remove the lease: the work is done."""
        for generation in range(1, self.generation + 1):  # ours last, so that none seems free
            _path(self.folder, self.key, generation).unlink(missing_ok=True)


@contextmanager
def keep_alive(*leases: Lease, beat: Callable[[], None] | None = None) -> Iterator[None]:
    """Give signs of life for `leases` meanwhile, and call `beat` with each."""
    over = threading.Event()

    def give_signs() -> None:
        while not over.wait(_BEAT):
            for lease in leases:
                with suppress(OSError):  # the holder looks for itself whether it is still there
                    os.utime(lease.path)
            if beat is not None:
                with suppress(OSError):
                    beat()

    thread = threading.Thread(target=give_signs, name="ampflow leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Leases:
    """The leases in a folder, as one worker sees them.

    Parameters
    ----------
    grace
        Seconds without a sign of life, by this process's own clock, after which the lease of a
        holder whose process cannot be seen from here is free.
    """

    def __init__(self, folder: Path, worker: str, grace: float = GRACE) -> None:
        self._folder, self._grace = folder, grace
        self._holder = Holder.here(worker)
        self._seen: dict[Path, tuple[float, float]] = {}

    def newest(self) -> dict[str, int]:
        """Return the newest generation of each lease."""
        newest: dict[str, int] = {}
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return newest
        except OSError as error:
            raise explain_os_error(error, self._folder) from error
        for name in names:
            key, _, generation = name.rpartition(".")
            if generation.isdecimal():  # NFS keeps removed files as .nfs000...
                newest[key] = max(newest.get(key, 0), int(generation))
        return newest

    def at(self, key: str, generation: int) -> Lease:
        """Return a lease in this folder, whoever has it."""
        return Lease(self._folder, key, generation)

    def claim(self, key: str, newest: Mapping[str, int] | None = None) -> Lease | None:
        """Take the lease on `key`; None if somebody else has it.

        Parameters
        ----------
        newest
            What `newest` returned a moment ago.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        last = (self.newest() if newest is None else newest).get(key, 0)
        if last and not self._is_free(_path(self._folder, key, last)):
            return None
        return self._create(self.at(key, last + 1))

    def holders(self) -> dict[str, Holder]:
        """Return who holds which lease now, leaving out those known to be gone."""
        holders = {}
        for key, generation in self.newest().items():
            path = _path(self._folder, key, generation)
            holder = _read(path)
            if holder is not None and not self._is_free(path):
                holders[key] = holder
        return holders

    def _create(self, lease: Lease) -> Lease | None:
        try:
            lease.folder.mkdir(parents=True, exist_ok=True)
            with lease.path.open("x", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(self._holder)))
        except FileExistsError:
            return None
        except OSError as error:
            with suppress(OSError):
                lease.release()
            raise explain_os_error(error, lease.path) from error
        return lease

    def _is_free(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:  # just finished
            return False
        if touched == 0:  # released
            return True
        holder = _read(path)
        if holder is not None and holder.is_here and not holder.is_alive():
            return True
        before, since = self._seen.get(path, (None, 0.0))
        if touched != before:
            self._seen[path] = touched, time.monotonic()
            return False
        return time.monotonic() - since > self._grace


def _path(folder: Path, key: str, generation: int) -> Path:
    return folder / f"{key}.{generation}"


def _read(path: Path) -> Holder | None:
    """Read who holds a lease; None where the holder has not written it yet."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, FileNotFoundError):
        return None
