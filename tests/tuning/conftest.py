from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import FakeTrainer

from ampflow.experiment import Choices, Range, Training, Tuning
from ampflow.tuning.study import StudySpec

SPACE = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "num_layers": Range(low=2, high=6),
    "batch_size": Choices(choices=[8, 16, 32]),
}


@pytest.fixture
def make_spec(tmp_path: Path) -> Any:
    """Make the spec of a small study, with options of [tuning] as wanted."""

    def make(cache: str = "cache", epochs: int = 5, seed: int = 1, **tuning: Any) -> StudySpec:
        options = {"trials": 6, "sampler": "random", "pruner": "none", "space": SPACE} | tuning
        spec = StudySpec(
            store=tmp_path / "store",
            split=tmp_path / "split.json",
            data_digest=tmp_path.name,
            training=Training(epochs=epochs),
            tuning=Tuning(**options),
            seed=seed,
            cache=tmp_path / cache,
        )
        # The real one would have every process of these tests import torch.
        spec.__dict__["trainer_version"] = 0
        return spec

    return make


@pytest.fixture
def trainer(tmp_path: Path) -> FakeTrainer:
    return FakeTrainer(tmp_path / "diary")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a private PostgreSQL server, from Debian's package; skip where there is none."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL server installed (Debian: postgresql)")
    pytest.importorskip("psycopg2")
    # The server refuses to run as root, and its user cannot enter pytest's folders.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(subprocess.check_output(["mktemp", "-d"], user=user, text=True).strip())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        [programs[-1] / "initdb", "-D", folder / "db", "-A", "trust", "-U", "me", "--no-sync"],
        user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    server = subprocess.Popen(
        [programs[-1] / "postgres", "-D", folder / "db", "-k", folder, "-p", str(port), "-F"],
        user=user, cwd=folder, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ready = [programs[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready).returncode and server.poll() is None:
            time.sleep(0.05)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for open connections
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mysql() -> Iterator[str]:
    """URL of a private MariaDB server, from Debian's package; skip where there is none."""
    server_program = shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if server_program is None:
        pytest.skip("no MySQL server installed (Debian: mariadb-server)")
    pytest.importorskip("pymysql")
    user = "mysql" if os.geteuid() == 0 else None
    folder = Path(subprocess.check_output(["mktemp", "-d"], user=user, text=True).strip())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = ["--no-defaults", f"--datadir={folder}/db"]
    subprocess.run(
        ["mariadb-install-db", *data, "--auth-root-authentication-method=normal"],
        user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with (folder / "start.sql").open("w") as script:
        script.write("CREATE DATABASE studies;\nCREATE USER me@'127.0.0.1';\n")  # one a line
        script.write("GRANT ALL ON *.* TO me@'127.0.0.1' WITH GRANT OPTION;\n")
    server = subprocess.Popen(
        [server_program, *data, f"--port={port}", "--bind-address=127.0.0.1",
         f"--socket={folder}/s", f"--init-file={folder}/start.sql", "--skip-name-resolve"],
        user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while server.poll() is None:  # it listens once its start script is done
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"mysql://me@127.0.0.1:{port}/studies"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["journal", "sqlite", "postgresql", "mysql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The option tuning.storage for each kind of storage."""
    if request.param in ("postgresql", "mysql"):
        return str(request.getfixturevalue(request.param))
    return f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else ""
