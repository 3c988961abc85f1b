"""What the file system under a study can do: SQLite and journals need locks that work."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ampflow.errors import StorageError

__all__ = ["Mount", "check_journal", "check_sqlite", "mount_of"]

_TABLE = Path("/proc/mounts")
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"),
    *("nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs"),
}
_LOCAL_LOCKS = {  # options with which a lock is seen on the machine that has it, and nowhere else
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "lustre": {"localflock", "noflock"},
    "cifs": {"nobrl"},
}
_LOCAL_LOCKS |= {"nfs4": _LOCAL_LOCKS["nfs"], "smb3": _LOCAL_LOCKS["cifs"]}
_INSTEAD = (
    'tuning.storage = "postgresql://user@host/name" (or mysql://...), '
    "or `cache` on another file system"
)
_TRY_LOCK = "import fcntl,sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
_SECONDS = 30


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Parameters
    ----------
    folder
        Where it is mounted.
    kind
        Its type, as the kernel calls it.
    options
        That it was mounted with.
    """

    folder: Path
    kind: str
    options: frozenset[str]

    @property
    def is_shared(self) -> bool:
        """Whether other machines may have it as well. FUSE is taken to be, unless it is known."""
        return self.kind in _NETWORK or self.kind.startswith("fuse.")

    def __str__(self) -> str:
        return f"{self.folder} ({self.kind})"


def mount_of(path: Path, table: Path = _TABLE) -> Mount | None:
    """Return the file system that `path` is on, or will be; None where nothing tells.

    Parameters
    ----------
    table
        The kernel's table of mounts.
    """
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    where, found = path.resolve(), None
    for line in lines:
        _, folder, kind, options, *_ = line.split(" ")
        mount = Mount(Path(_unescaped(folder)), kind, frozenset(options.split(",")))
        deepest = found is None or len(mount.folder.parts) >= len(found.folder.parts)
        if where.is_relative_to(mount.folder) and deepest:  # of equals the last, which hides others
            found = mount
    return found


def _unescaped(folder: str) -> str:
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        folder = folder.replace(f"\\{code}", character)
    return folder


def check_sqlite(path: Path) -> None:
    """See that SQLite may keep a database at `path`: never on a network file system.

    Raises
    ------
    StorageError
        If it may not.
    """
    mount = mount_of(path, _TABLE)
    if mount is not None and mount.is_shared:
        raise StorageError(
            f"{path}: SQLite loses data on a network file system, and this is one: {mount}",
            f'tuning.storage = "" (a journal file), or {_INSTEAD}',
        )


def check_journal(path: Path) -> None:
    """See that several processes may write the journal at `path`, which exists.

    On a local file system locks work. On a shared one they are tried between two processes of
    this machine; whether they hold between two machines cannot be tried from one, only whether
    it was mounted so that they do not.

    Raises
    ------
    StorageError
        If they may not.
    """
    mount = mount_of(path, _TABLE)
    if mount is None or not mount.is_shared:
        return
    local = mount.options & _LOCAL_LOCKS.get(mount.kind, set())
    if local or mount.kind == "fuse.sshfs":
        why = f"is mounted with {', '.join(sorted(local))}" if local else "is sshfs"
        raise StorageError(
            f"{path}: {mount} {why}: locks hold on one machine only, and workers on others would "
            "damage the study",
            _INSTEAD,
        )
    _check_locks(path.parent)


@cache
def _check_locks(folder: Path) -> None:
    """See that a lock of this process keeps another one out. Asked once for each folder."""
    path = folder / ".locks"
    try:
        with path.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            command = [sys.executable, "-S", "-E", "-c", _TRY_LOCK, str(path)]
            other = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        works = b"BlockingIOError" in other.stderr
    except OSError:  # ENOSYS, ENOLCK: there are none
        works = False
    except subprocess.TimeoutExpired:
        works = False
    if not works:
        raise StorageError(f"{folder}: files cannot be locked here", _INSTEAD)
