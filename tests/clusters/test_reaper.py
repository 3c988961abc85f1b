from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from ampflow.clusters.fleet import Fleet
from ampflow.clusters.profile import Profile
from ampflow.clusters.reaper import sign, sweep
from ampflow.errors import OptionError
from ampflow.tuning.leases import Holder


@pytest.fixture
def cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The numbers that a fake scancel was given; a fake squeue has jobs of two fleets."""
    said = tmp_path / "cancelled"
    said.touch()
    fakes = {
        "squeue": "echo '1|ampflow-gone|PENDING||2:00'; echo '2|ampflow-here|RUNNING|n|2:00'",
        "scancel": f"echo $1 >>{said}",
    }
    for name, script in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return said


def _fleet(folder: Path, name: str, **changes: object) -> Path:
    (folder / name).mkdir(parents=True)
    table = asdict(Holder.here("driver")) | changes
    (folder / name / "driver.json").write_text(json.dumps(table))
    return folder / name


def test_what_a_dead_driver_left_is_swept(tmp_path: Path, cancelled: Path) -> None:
    # Its jobs and its folder; those of a driver that lives are left alone.
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    gone = _fleet(tmp_path / "jobs", "ampflow-gone", pid=process.pid)
    here = _fleet(tmp_path / "jobs", "ampflow-here")
    sweep(tmp_path / "jobs")
    assert cancelled.read_text().split() == ["1"]
    assert (gone.exists(), here.exists()) == (False, True)


def test_a_driver_elsewhere_is_gone_when_its_job_is(tmp_path: Path, cancelled: Path) -> None:
    # Nobody can see its process from here; without a job nobody knows, and it is left alone.
    gone = _fleet(tmp_path / "jobs", "ampflow-gone", host="other", job="7.head")
    runs = _fleet(tmp_path / "jobs", "ampflow-runs", host="other", job="2")
    unknown = _fleet(tmp_path / "jobs", "ampflow-here", host="other", job="")
    sweep(tmp_path / "jobs")
    assert cancelled.read_text().split() == ["1"]
    assert [path.exists() for path in (gone, runs, unknown)] == [False, True, True]


def test_a_driver_signs(tmp_path: Path, cancelled: Path) -> None:
    fleet = tmp_path / "jobs" / "ampflow-here"
    fleet.mkdir(parents=True)
    sign(fleet)
    sweep(tmp_path / "jobs")
    assert fleet.exists()
    assert cancelled.read_text() == ""


def test_results_have_to_be_in_the_shared_folder(tmp_path: Path) -> None:
    # A cache that nodes cannot see would be found out by every job, one after the other.
    profile = Profile(scheduler="slurm", walltime="01:00:00", shared=str(tmp_path / "shared"))
    with pytest.raises(OptionError, match="not in"):
        Fleet(profile, tmp_path / "elsewhere" / "jobs")
