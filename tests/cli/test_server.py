"""Prefect's server for all runs."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import NotInstalled, postgresql_server

from ampflow.cli.engine import free_port


@pytest.fixture
def database() -> Iterator[str]:
    try:
        with postgresql_server() as url:
            yield url
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture
def ampflow(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The command, of a user whose server is ended."""
    own = {f"XDG_{name}_HOME": str(tmp_path / name) for name in ("STATE", "CONFIG")}
    own["PREFECT_HOME"] = str(tmp_path / "prefect")
    program = str(Path(sys.executable).with_name("ampflow"))

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [program, *arguments], env=environment | own, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    subprocess.run([program, "server", "stop"], env=environment | own, capture_output=True)


def test_a_server_on_postgresql(database: str, ampflow: Callable[..., str], tmp_path: Path) -> None:
    # It keeps nothing in the user's folder, is found by status, and is gone after stop.
    port = free_port()
    said = ampflow("server", "start", "--port", str(port), "--database", database)
    url = f"http://127.0.0.1:{port}/api"
    assert url in said
    assert url in ampflow("server", "status")
    request = urllib.request.Request(
        f"{url}/flows/", data=json.dumps({"name": "mine"}).encode(),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["name"] == "mine"
    assert list((tmp_path / "prefect").glob("*.db")) == []
    ampflow("server", "stop")
    ampflow("server", "status", code=1)


@pytest.mark.parametrize(
    ("database", "what"),
    [("mysql://me@host/name", "not PostgreSQL"), ("postgresql://me:word@host/name", "password")],
)
def test_databases_that_are_refused(ampflow: Callable[..., str], database: str, what: str) -> None:
    # Before anything is started; the password is not repeated.
    said = ampflow("server", "start", "--port", str(free_port()), "--database", database, code=1)
    assert what in said
    assert ":word@" not in said
