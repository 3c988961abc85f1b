from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from fake_trainer import FakeTrainer
from processes import Start, starting
from servers import NotInstalled, mysql_server, postgresql_server

from ampflow.digests import digest
from ampflow.experiment import Choices, Range, Training, Tuning
from ampflow.images import Frame, Image
from ampflow.splits import Splits
from ampflow.tuning.objective import Potentials
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


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a worker as a process, which does not outlive the test."""
    with starting() as start:
        yield start


@pytest.fixture
def potentials(tmp_path: Path, write_store: Any) -> Potentials:
    """Potentials on 24 structures of hydrogen and oxygen with random fingerprints."""
    random = np.random.default_rng(0)
    images, fingerprints = [], []
    for index in range(24):
        atoms = Atoms("H" * (1 + index % 3) + "O" * (1 + index % 2))
        rows = random.normal(size=(len(atoms), 4))
        energy = -3.0 * len(atoms) + float(np.sin(rows[:, 0]).sum())
        frame = Frame.of(atoms)._replace(energy=energy)
        images.append(Image(frame, Path("/x"), index, digest(index)))
        fingerprints.append(rows)
    write_store(tmp_path / "store", images, fingerprints)
    parts = np.split(np.arange(24), [16, 20])
    Splits(*parts).write(tmp_path / "split.json")
    return Potentials(tmp_path / "store", tmp_path / "split.json")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a private PostgreSQL server; skip where there is none."""
    pytest.importorskip("psycopg2")
    yield from _served(postgresql_server())


@pytest.fixture(scope="session")
def mysql() -> Iterator[str]:
    """URL of a private MySQL (MariaDB) server; skip where there is none."""
    pytest.importorskip("pymysql")
    yield from _served(mysql_server())


def _served(server: AbstractContextManager[str]) -> Iterator[str]:
    try:
        url = server.__enter__()
    except NotInstalled as error:
        pytest.skip(str(error))
    try:
        yield url
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(params=["journal", "sqlite", "postgresql", "mysql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The option tuning.storage for each kind of storage."""
    if request.param in ("postgresql", "mysql"):
        return str(request.getfixturevalue(request.param))
    return f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else ""
