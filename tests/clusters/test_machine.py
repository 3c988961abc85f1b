from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from ampflow.cli.app import app
from ampflow.clusters.machine import address_for_jobs, refuse_heavy_work
from ampflow.clusters.profile import Profile
from ampflow.errors import OptionError


@pytest.fixture
def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, in somebody's profile as a login node."""
    folder = tmp_path / "ampflow" / "clusters"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(
        'scheduler = "slurm"\nwalltime = "01:00:00"\n'
        f'login_nodes = ["{socket.gethostname()[:1]}*"]\n'
    )
    (folder / "broken.toml").write_text("scheduler = \n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("AMPFLOW_JOB_END", raising=False)


@pytest.mark.usefixtures("login_node")
def test_heavy_work_on_a_login_node_is_refused() -> None:
    # With the command to use instead; a profile that is not valid does not matter.
    for cluster in ("", "laptop"):
        with pytest.raises(OptionError, match="login node of mine") as error:
            refuse_heavy_work(cluster, "ampflow run")
        assert "ampflow run --cluster mine" in error.value.hint


@pytest.mark.usefixtures("login_node")
def test_what_has_no_jobs_goes_into_one() -> None:
    # Only options that a command has are recommended.
    with pytest.raises(OptionError) as error:
        refuse_heavy_work("", "ampflow train")
    assert "--cluster" not in error.value.hint
    assert "ampflow train within a job" in error.value.hint


@pytest.mark.usefixtures("login_node")
@pytest.mark.parametrize(
    "command",
    [
        "predict model new.traj",
        "evaluate model new.traj",
        "ensemble experiment.toml",
        "export-amptorch model new.traj --to folder",
        *("train", "split", "fingerprint", "tune", "report", "run"),
    ],
)
def test_commands_that_compute(command: str, tmp_path: Path) -> None:
    # Each says so before it reads or makes anything.
    (tmp_path / "new.traj").touch()
    file = tmp_path / "experiment.toml"
    file.write_text('out = "out"\ndata.files = ["new.traj"]\n')
    name, *arguments = command.replace("experiment.toml", str(file)).split()
    with pytest.raises(OptionError, match="is a login node of mine") as error:
        app([name, *(arguments or [str(file)])], standalone_mode=False)
    assert f"ampflow {name} " in error.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("login_node")
def test_a_driver_that_only_submits_is_allowed() -> None:
    refuse_heavy_work("mine", "ampflow run")


@pytest.mark.usefixtures("login_node")
def test_within_a_job_work_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the node is called.
    monkeypatch.setenv("AMPFLOW_JOB_END", "2000000000")
    refuse_heavy_work("", "ampflow run")


def test_other_machines_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    refuse_heavy_work("", "ampflow run")


def test_the_address_is_the_interfaces() -> None:
    profile = Profile(scheduler="slurm", walltime="01:00:00", interface="lo")
    assert address_for_jobs(profile) == "127.0.0.1"


def test_without_an_interface_it_is_no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    # Debian has the host's own name stand for loopback, where no job on another node comes.
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "127.0.1.1")
    outer = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    if not outer:
        pytest.skip("this machine has only loopback")
    assert address_for_jobs(Profile(scheduler="slurm", walltime="01:00:00")) in outer


def test_no_such_interface() -> None:
    # The error lists those there are.
    profile = Profile(scheduler="slurm", walltime="01:00:00", interface="ib7")
    with pytest.raises(OptionError, match="ib7") as error:
        address_for_jobs(profile)
    assert "lo" in error.value.hint
