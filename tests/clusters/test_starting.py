"""Jobs that cannot start, or workers that cannot work: what a user is told, and what is tried."""

from __future__ import annotations

import socket

import pytest
from site_user import SiteUser

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# From here on the job sees another folder, an empty one, in this one's place.
HIDE = (
    '[ -n "$HIDDEN" ] || {condition} || HIDDEN=1 '
    'exec unshare -m bash -c \'mount -t tmpfs none {folder} && exec bash "$0"\' "$0"'
)


@pytest.mark.parametrize("dialect", ["slurm", "torque"])
def test_jobs_that_die_at_their_start(user: SiteUser, dialect: str) -> None:
    # After a few tries, one job at a time, the run ends with what the job itself said.
    prologue = ["echo conda: no such environment", "exit 1"]
    name = user.profile("mine", dialect, prologue=prologue)
    said = user.ampflow(*user.tuning(name, workers=4, trials=8), code=1)
    assert "die at their start" in said
    assert "conda: no such environment" in said
    assert len(user.submitted()) <= 6
    user.check_nothing_left()


@pytest.mark.parametrize("dialect", ["slurm", "torque"])
def test_a_queue_that_is_not_there(user: SiteUser, dialect: str) -> None:
    # What the scheduler says is passed on.
    name = user.profile("mine", dialect, queue="nowhere")
    said = user.ampflow(*user.tuning(name), code=1)
    assert "invalid partition" in said.lower()
    assert user.submitted() == []
    user.check_nothing_left()


def test_some_workers_that_cannot_reach_the_storage(user: SiteUser) -> None:
    # On a node that lacks the shared folder a worker says so, and the others do the work.
    folder = user.out / "cache" / "studies"
    condition = "[ $((SLURM_JOB_ID % 2)) = 0 ]"
    name = user.profile("mine", prologue=[HIDE.format(condition=condition, folder=folder)])
    user.ampflow(*user.tuning(name, trials=3, epochs=300))
    user.check_study(trials=3, epochs=300)
    user.check_nothing_left()


def test_no_worker_can_reach_the_storage(user: SiteUser) -> None:
    # The message names a worker, its machine and what is wrong there.
    folder = user.out / "cache" / "studies"
    name = user.profile("mine", prologue=[HIDE.format(condition="false", folder=folder)])
    said = user.ampflow(*user.tuning(name, trials=1, workers=1), code=1)
    assert f"worker 1 on {socket.gethostname()}" in said
    assert str(folder) in said
    assert len(user.submitted()) <= 4
    user.check_nothing_left()
