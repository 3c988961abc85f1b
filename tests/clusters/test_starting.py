"""Jobs that cannot start, or workers that cannot work: what a user is told, and what is tried."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from site_user import SiteUser, hidden

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def ask_both(
    user: SiteUser, other_user: SiteUser, **options: object
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Run a search that fails through Slurm's and Torque's commands, with options of a profile.

    Yields what each says, and its jobs.
    """
    sites = ((user, "slurm", "pace-ice"), (other_user, "torque", "pace-ice-gpu"))
    runs = []
    for site, dialect, _ in sites:
        name = site.profile("mine", dialect, **options)
        runs.append(site.start(*site.tuning(name, workers=4, trials=8)))
    for (site, _, queue), run in zip(sites, runs, strict=True):
        code, said = site.end(run)
        assert code == 1, said
        yield said, site.submitted(queue)
    for site, _, _ in sites:
        site.check_nothing_left()


def test_jobs_that_die_at_their_start(user: SiteUser, other_user: SiteUser) -> None:
    # After a few tries, one job at a time, the run ends with what the job itself said.
    prologue = ["echo conda: no such environment", "exit 1"]
    for said, jobs in ask_both(user, other_user, prologue=prologue):
        assert "die at their start" in said
        assert "conda: no such environment" in said
        assert 3 <= len(jobs) <= 6


def test_a_queue_that_is_not_there(user: SiteUser, other_user: SiteUser) -> None:
    # What the scheduler says is passed on.
    for said, _ in ask_both(user, other_user, queue="nowhere"):
        assert "invalid partition" in said.lower()
    assert user.submitted() == []


def test_some_workers_that_cannot_reach_the_storage(user: SiteUser) -> None:
    # On a node that lacks the shared folder a worker says so, and the others do the work.
    folder = user.out / "cache" / "studies"
    even = "[ $((SLURM_JOB_ID % 2)) = 0 ]"
    name = user.profile("mine", "torque", prologue=[hidden(folder, unless=even)])
    user.ampflow(*user.tuning(name, trials=3, epochs=300))
    user.check_study(trials=3, epochs=300)
    user.check_nothing_left()


def test_no_worker_can_reach_the_storage(user: SiteUser) -> None:
    # The message names a worker, its machine and what is wrong there.
    folder = user.out / "cache" / "studies"
    name = user.profile("mine", prologue=[hidden(folder)])
    said = user.ampflow(*user.tuning(name, trials=1, workers=1), code=1)
    assert f"worker 1 on {socket.gethostname()}" in said
    assert str(folder) in said
    assert len(user.submitted()) <= 4
    user.check_nothing_left()
