from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ampflow.errors import StorageError
from ampflow.tuning.leases import Holder, Lease, LeaseLost, Leases, keep_alive


def plant(folder: Path, holder: Holder, generation: int = 1) -> Path:
    """Put down a lease of somebody else."""
    folder.mkdir(exist_ok=True)
    path = folder / f"7.{generation}"
    path.write_text(json.dumps(asdict(holder)))
    return path


def test_one_of_two_has_the_lease(tmp_path: Path) -> None:
    first, second = Leases(tmp_path, "a"), Leases(tmp_path, "b")
    lease = first.claim("7")
    assert lease is not None
    assert second.claim("7") is None
    assert second.claim("8") is not None
    assert {key: holder.worker for key, holder in second.holders().items()} == {"7": "a", "8": "b"}


# Also where both looked at the folder before either had it.
def test_race(tmp_path: Path) -> None:
    first, second = Leases(tmp_path, "a"), Leases(tmp_path, "b")
    before = first.newest()
    assert first.claim("7", before) is not None
    assert second.claim("7", before) is None


def test_released_lease_is_free_at_once(tmp_path: Path) -> None:
    lease = Leases(tmp_path, "a").claim("7")
    assert lease is not None
    lease.release()
    other = Leases(tmp_path, "b").claim("7")
    assert other == Lease(tmp_path, "7", 2)
    with pytest.raises(LeaseLost):
        lease.check()
    other.check()


def test_finished_lease_leaves_nothing(tmp_path: Path) -> None:
    leases = Leases(tmp_path, "a")
    for _ in range(3):
        lease = leases.claim("7")
        assert lease is not None
        lease.release()
    lease.finish()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LeaseLost):
        lease.check()


# A process that is gone is known at once on its own machine: no such number, or a number that
# another process has by now, or one that nobody has fetched yet (a zombie).
def test_holder_that_is_gone(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = replace(Holder.here("x"), pid=ended.pid)
    reused = replace(Holder.here("x"), started=time.time() - 1000)
    for number, holder in enumerate((gone, reused)):
        plant(tmp_path / str(number), holder)
        assert Leases(tmp_path / str(number), "a").claim("7") is not None
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    plant(tmp_path / "zombie", replace(Holder.here("x"), pid=zombie.pid, started=time.time()))
    assert Leases(tmp_path / "zombie", "a").claim("7") is not None
    zombie.wait()


# Of a holder elsewhere only signs of life are seen, and how long there were none is measured
# by the clock of who looks: not by comparing clocks of two machines.
def test_holder_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    path = plant(tmp_path, replace(Holder.here("x"), host="elsewhere", pid=1))
    os.utime(path, (5, 5))  # its clock is decades behind
    leases = Leases(tmp_path, "a", grace=120)
    assert leases.claim("7") is None
    clock += 100
    assert leases.claim("7") is None
    os.utime(path, (6, 6))  # a sign of life
    clock += 100
    assert leases.claim("7") is None
    clock += 119
    assert leases.claim("7") is None
    clock += 2
    assert leases.claim("7") == Lease(tmp_path, "7", 2)


# Who looks at a queue of jobs wants to know which job trains what.
@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID"])
def test_job_of_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    assert Holder.here("a").job == ""
    monkeypatch.setenv(variable, "17.head")
    Leases(tmp_path, "a").claim("7")
    assert Leases(tmp_path, "b").holders()["7"].job == "17.head"


# A lease whose holder has not written its name yet, or never will, is treated alike.
def test_lease_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    (tmp_path / "7.1").touch()
    leases = Leases(tmp_path, "a", grace=10)
    assert leases.claim("7") is None
    clock = 11
    assert leases.claim("7") is not None


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ampflow.tuning.leases._BEAT", 0.01)
    lease = Leases(tmp_path, "a").claim("7")
    assert lease is not None
    os.utime(lease.path, (5, 5))
    with keep_alive(lease):
        while lease.path.stat().st_mtime == 5:
            time.sleep(0.01)
        lease.path.unlink()  # somebody finished the work: it must not come back
        time.sleep(0.05)
    assert not lease.path.exists()


# Network file systems keep a file that was removed while open under a name of their own.
def test_names_that_are_no_leases(tmp_path: Path) -> None:
    (tmp_path / ".nfs00000000012a").touch()
    assert Leases(tmp_path, "a").newest() == {}


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        Leases(tmp_path / "file", "a").claim("7")
