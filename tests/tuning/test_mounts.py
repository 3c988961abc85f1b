"""The tables of mounts here are fakes: this machine has no network file system."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from ampflow.errors import StorageError
from ampflow.tuning import mounts
from ampflow.tuning.mounts import check_journal, mount_of
from ampflow.tuning.storage import open_storage

MountedAs = Callable[[str, str], None]


@pytest.fixture
def mounted_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountedAs:
    """Have the test's folder stand in a fake table of mounts."""

    def mounted(kind: str, options: str) -> None:
        table = tmp_path / "mounts"
        table.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path}/net {kind} {options} 0 0\n")
        monkeypatch.setattr(mounts, "_TABLE", table)
        (tmp_path / "net").mkdir()
        mounts._check_locks.cache_clear()

    return mounted


# The deepest mount is the one, of equals the last, and spaces are written as \040.
def test_mount_of(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/a / ext4 rw 0 0\n"
        "a:/h /my\\040home nfs4 rw,hard 0 0\n"
        "a:/h /my\\040home/b lustre rw 0 0\n"
        "tmp /my\\040home/b tmpfs rw 0 0\n"
    )
    found = [mount_of(Path(path), table) for path in ("/x", "/my home/a/b", "/my home/b/c")]
    assert [mount.kind for mount in found if mount] == ["ext4", "nfs4", "tmpfs"]
    assert [mount.is_shared for mount in found if mount] == [False, True, False]
    assert mount_of(Path("/x"), tmp_path / "absent") is None


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "afs", "9p"),
        *("fuse.sshfs", "fuse.glusterfs"),
    ],
)
def test_sqlite_on_a_network_file_system(tmp_path: Path, mounted_as: MountedAs, kind: str) -> None:
    mounted_as(kind, "rw")
    with pytest.raises(StorageError, match=rf"SQLite loses data.*net \({kind}\)"):
        open_storage(f"sqlite:///{tmp_path}/net/s.db", Path())
    assert list((tmp_path / "net").iterdir()) == []
    open_storage(f"sqlite:///{tmp_path}/s.db", Path())  # beside it is a local disk


# Locks that hold on one machine only are refused, and the message has another way.
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("nfs", "rw,nolock"),
        ("nfs4", "rw,local_lock=all"),
        ("nfs", "rw,local_lock=flock"),
        ("lustre", "rw,localflock"),
        ("lustre", "rw,noflock"),
        ("cifs", "rw,nobrl"),
        ("fuse.sshfs", "rw"),
    ],
)
def test_journal_without_locks(
    tmp_path: Path, mounted_as: MountedAs, kind: str, options: str
) -> None:
    mounted_as(kind, options)
    with pytest.raises(StorageError, match="one machine only") as error:
        open_storage("", tmp_path / "net" / "s.log")
    assert "postgresql://" in error.value.hint


# Where the mount does not say, the locks are tried: one that keeps nobody out, or is not there.
def test_locks_are_tried(
    tmp_path: Path, mounted_as: MountedAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted_as("lustre", "rw,flock")
    path = tmp_path / "net" / "s.log"
    open_storage("", path)

    def absent(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    for flock in (lambda *_: None, absent):
        mounts._check_locks.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            with pytest.raises(StorageError, match="cannot be locked"):
                check_journal(path)
