"""What becomes of jobs whose workers go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from private_slurm import Slurm, wait_for

from ampflow.clusters.fleet import Fleet, FleetError
from ampflow.clusters.profile import Profile

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LINGERING = "trap 'sleep 3600' EXIT"  # a job that goes on when its worker has ended


@pytest.fixture
def one_job(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet of one job, whose worker is here."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    profile = Profile(
        scheduler="slurm", queue="pace-ice", walltime="00:30:00", cores=1, memory="1 GB",
        interface="lo", prologue=[LINGERING],
    )  # fmt: skip
    made = Fleet(profile, tmp_path)
    try:
        made.scale(1)
        wait_for("a worker", lambda: workers(made))
        yield made
    finally:
        made.close()
    assert slurm.queue() == []


def workers(made: Fleet) -> set[str]:
    """Return the names of the workers that are here."""
    info = made._cluster.scheduler_info["workers"]
    return {worker["name"] for worker in info.values()}


def another_worker(made: Fleet, known: set[str]) -> None:
    wait_for("another worker", lambda: workers(made) - known)
    known |= workers(made)


def test_workers_that_go(one_job: Fleet, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    # One other takes the place of a job that ended, and is given the time to start: none is
    # cancelled for the worker of an earlier one. A job whose worker has gone for good is, though
    # it goes on.
    monkeypatch.setitem(dask.config.get("distributed.deploy"), "lost-worker-timeout", "3 s")
    (first,) = slurm.queue()
    known = workers(one_job)
    slurm.kill(first)
    another_worker(one_job, known)
    (worker,) = slurm.workers()
    nanny = worker.parent()
    assert nanny is not None
    nanny.kill()  # and with it the worker
    another_worker(one_job, known)
    states = [job["JobState"] for job in slurm.jobs() if int(job["JobId"]) >= int(first)]
    assert states == ["FAILED", "CANCELLED", "RUNNING"]
    assert len(known) == 3


def test_an_error_of_ours(one_job: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is not called one of the jobs.
    async def fail() -> None:
        raise ZeroDivisionError("nothing there")

    monkeypatch.setattr(one_job, "_mend", fail)
    one_job._keeper.join(60)
    with pytest.raises(FleetError, match="looked after: ZeroDivisionError: nothing there"):
        one_job.check()
