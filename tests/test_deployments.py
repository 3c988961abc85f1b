"""Deployments: what `prefect deploy` and `ampflow ui` register, and that `ampflow ui` is gone
when it ends. Real servers and processes, with a Prefect home of the tests' own."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from ui_process import TINY, api, running_ui

from ampflow.demo import write_demo
from ampflow.experiment import Experiment
from ampflow.experiment_file import load_experiment

PROJECT = Path(__file__).parents[1]
FLOWS = {"Pipeline", "Fingerprint", "Split", "Tune", "Train", "Report"}
EVERY = {f"{flow}/{flow.lower()}" for flow in FLOWS} | {"Pipeline/nightly"}

slow = pytest.mark.slow


def prefect(environment: dict[str, str], *arguments: str) -> None:
    command = [Path(sys.executable).with_name("prefect"), "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def registered(address: str) -> dict[str, dict[str, Any]]:
    """The deployments at a server, by flow and name."""
    flows = {flow["id"]: flow["name"] for flow in api(address, "/flows/filter", {})}
    deployments = api(address, "/deployments/filter", {})
    return {f"{flows[item['flow_id']]}/{item['name']}": item for item in deployments}


@pytest.fixture(scope="module")
def address(served: dict[str, str]) -> str:
    return served["PREFECT_API_URL"].removesuffix("/api")


@pytest.fixture(scope="module")
def deployed(served: dict[str, str], address: str) -> dict[str, dict[str, Any]]:
    """What deployments/prefect.yaml gives, by the commands that stand in its first lines."""
    prefect(served, "work-pool", "create", "--type", "process", "ampflow")
    prefect(served, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    return registered(address)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_demo(tmp_path / "structures.traj", count=40)
    (tmp_path / "tiny.toml").write_text(TINY.format(epochs=3, trials=2))
    return tmp_path / "tiny.toml"


@slow
def test_every_flow_is_deployed(deployed: dict[str, dict[str, Any]]) -> None:
    # `prefect deploy` loads each flow from its entry point, so a wrong one fails above.
    assert set(deployed) == EVERY


@slow
def test_the_form_has_every_option_with_its_meaning(deployed: dict[str, dict[str, Any]]) -> None:
    # The form of Prefect's UI is made from this schema: sections nested, each option described.
    for deployment in deployed.values():
        schema = deployment["parameter_openapi_schema"]
        definitions = schema["definitions"]
        assert schema["required"] == ["experiment"]
        sections = set(Experiment.model_fields) - {"seed", "out", "cache", "cluster"}
        assert sections <= {name.lower() for name in definitions}
        for section in sections:
            options = definitions[section.capitalize()]["properties"]
            assert all(option["description"] for option in options.values())
        assert deployment["enforce_parameter_schema"]


@slow
def test_what_the_form_shows_at_first_is_an_experiment(
    deployed: dict[str, dict[str, Any]],
) -> None:
    for deployment in deployed.values():
        experiment = Experiment.model_validate(deployment["parameters"]["experiment"])
        assert experiment.data.files


@slow
def test_the_nightly_run_is_scheduled(deployed: dict[str, dict[str, Any]]) -> None:
    # On when deployed by hand, one at a time; nothing else starts by itself.
    (schedule,) = deployed["Pipeline/nightly"]["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    scheduled = {name for name, deployment in deployed.items() if deployment["schedules"]}
    assert scheduled == {"Pipeline/nightly"}


@slow
def test_a_shared_server_gets_the_same_deployments_and_a_worker(
    deployed: dict[str, dict[str, Any]], served: dict[str, str], address: str, tiny: Path
) -> None:
    with running_ui(tiny.parent, served, tiny) as ui:
        now = registered(address)
        family = ui.family()
        ui.process.send_signal(signal.SIGINT)
        assert ui.wait() == 0
    # `ampflow ui` and prefect.yaml register the same, and the switch of a schedule stays as it was.
    assert set(now) == set(deployed)
    assert now["Pipeline/nightly"]["schedules"][0]["active"]
    assert "Prefect's server" not in ui.said
    # FILE is what its forms show.
    shown = Experiment.model_validate(now["Tune/tune"]["parameters"]["experiment"])
    assert shown == load_experiment(tiny)
    # The server is not ours to stop; the worker is.
    assert api(address, "/health") is True
    assert not [process for process in family if process.is_running()]


@slow
def test_nothing_is_left_when_it_is_killed(
    environment: dict[str, str], tmp_path: Path, tiny: Path
) -> None:
    # Not even a run that trains, and it is not said to be Running for ever after.
    home = tmp_path / "home"
    tiny.write_text(TINY.format(epochs=1_000_000, trials=2))
    with running_ui(tmp_path, environment | {"PREFECT_HOME": str(home)}, tiny) as ui:
        deployments = registered(ui.address)
        assert not deployments["Pipeline/nightly"]["schedules"][0]["active"]  # off at first
        pipeline = deployments["Pipeline/pipeline"]["id"]
        run = api(ui.address, f"/deployments/{pipeline}/create_flow_run", {})
        wait_for(lambda: (tmp_path / "results/cache/trials").is_dir(), "a trial")
        family = ui.family()
        assert len(family) > 4  # the server, the worker, the run, its tuning worker
        ui.process.kill()
        _, left = psutil.wait_procs(family[1:], timeout=240)
        assert not left
    with sqlite3.connect(home / "prefect.db") as database:
        query = "SELECT state_name FROM flow_run WHERE id = ?"
        assert database.execute(query, (run["id"],)).fetchone() == ("Crashed",)


def wait_for(happened: Any, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.2)


def test_a_taken_port_is_refused_before_anything_starts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [Path(sys.executable).with_name("ampflow"), "ui", "--port", str(port)],
            env=environment | {"PREFECT_HOME": str(home)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"--port {port + 1}" in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("file", sorted(PROJECT.glob("deployments/*.toml")), ids=lambda p: p.stem)
def test_experiment_files_to_copy_are_valid(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.data.files == [str(file.parent / "structures.traj")]
    assert Path(experiment.out).name == file.stem
