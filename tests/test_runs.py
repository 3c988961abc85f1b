from __future__ import annotations

import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from ampflow.errors import OptionError
from ampflow.runs import Run, find_run, list_runs, new_run, state_of
from ampflow.tuning.leases import Holder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def _run() -> Run:
    return new_run(Path("/out"), Path("/out/cache"), "")


def test_a_run_is_found_again() -> None:
    # What one process records, another reads.
    run = _run().begin()
    assert list_runs() == [run]
    assert state_of(run, None) == "running"
    assert find_run("", {run.name: "running"}) == run
    assert find_run(run.name[:6], {}) == run


@pytest.mark.parametrize(("code", "state"), [(0, "done"), (1, "failed"), (130, "stopped")])
def test_an_ended_run_says_how(code: int, state: str) -> None:
    assert state_of(_run().begin().update(code=code), None) == state


def test_a_run_whose_process_is_gone_was_killed() -> None:
    # The number of a process says nothing by itself: it is used again.
    process = subprocess.Popen(["true"])
    process.wait()
    gone = Holder.here("driver")
    run = _run().update(holder=asdict(gone) | {"pid": process.pid})
    assert state_of(run, None) == "killed"
    again = _run().update(holder=asdict(gone) | {"pid": os.getpid(), "started": 1.0})
    assert state_of(again, None) == "killed"


def test_a_run_elsewhere_is_not_known() -> None:
    run = _run().update(holder=asdict(Holder.here("driver")) | {"host": "other"})
    assert state_of(run, None) == "unknown"


def test_a_detached_run_is_what_its_job_is() -> None:
    run = _run().update(job="7")
    assert state_of(run, {"7": "queued"}) == "queued"
    assert state_of(run, {"7": "running"}) == "running"
    assert state_of(run, {"8": "running"}) == "killed"
    assert state_of(run, None) == "unknown"


def test_several_runs_need_a_name() -> None:
    # Nothing is stopped that was not meant.
    first, second = _run().begin(), _run().begin()
    states = {first.name: "running", second.name: "running"}
    with pytest.raises(OptionError, match="2 runs go on"):
        find_run("", states)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"several runs: .*{first.name}"):
        find_run(first.name[:4], {})
    with pytest.raises(OptionError, match="no such run"):
        find_run("nonsense", {})
    with pytest.raises(OptionError, match="no run goes on"):
        find_run("", {})


def test_old_runs_are_forgotten() -> None:
    # With all their files; a damaged record does not matter.
    old = _run()
    old.note_file.write_text("Tuning: 3/20")
    (old.file.parent / "damaged.json").write_text("{")
    long_ago = time.time() - 40 * 86400
    os.utime(old.file, (long_ago, long_ago))
    new = _run()
    assert list_runs() == [new]
    assert not old.note_file.exists()
