from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_slurm import NotPossible, Slurm, private_slurm
from site_user import SiteUser

from ampflow.demo import write_demo


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real Slurm with Torque's commands; skip where there cannot be one."""
    try:
        with private_slurm() as running:
            yield running
    except NotPossible as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo.traj"
    write_demo(path, count=30, seed=1)
    return path


@pytest.fixture
def user(
    slurm: Slurm, served: dict[str, str], structures: Path, tmp_path: Path
) -> Iterator[SiteUser]:
    """A user of the cluster; whatever she left running is ended."""
    yield from _user(SiteUser(slurm, served, structures, tmp_path))


@pytest.fixture
def other_user(
    slurm: Slurm, served: dict[str, str], structures: Path, tmp_path: Path
) -> Iterator[SiteUser]:
    """Another one, who works meanwhile."""
    yield from _user(SiteUser(slurm, served, structures, tmp_path / "other"))


@pytest.fixture
def serverless_user(
    slurm: Slurm, environment: dict[str, str], structures: Path, tmp_path: Path
) -> Iterator[SiteUser]:
    """A user whose shell names no Prefect server."""
    yield from _user(SiteUser(slurm, environment, structures, tmp_path))


def _user(user: SiteUser) -> Iterator[SiteUser]:
    assert os.environ.get("SLURM_JOB_ID") is None, "not from within a job"
    try:
        yield user
    finally:
        user.leave()
