"""Runs that go on without a terminal."""

from __future__ import annotations

import re
import time

import pytest
from private_slurm import wait_for
from site_user import SiteUser, let_go, result_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def state_of(user: SiteUser) -> str:
    """Return the state of the one run, as `ampflow status` shows it."""
    shown = user.ampflow("status")
    return re.findall(r"^\s*\d{4}-\d{6}-\w+ +(\w+)", shown, re.MULTILINE)[0]


def test_detached_in_a_job(user: SiteUser) -> None:
    # The driver is a job: found by status, ended by stop with nothing left in the queue. Run
    # again it goes on, and ends by itself.
    name = user.profile("mine")
    arguments = user.tuning(name, command="run", trials=2, epochs=4000, more=("--detach",))
    user.ampflow(*arguments)
    held = user.wait_and_hold(2)
    assert state_of(user) == "running"
    assert "driver of" in user.ampflow("jobs")
    let_go(held)
    user.ampflow("stop")
    assert state_of(user) == "stopped"
    user.check_nothing_left()
    before = user.epochs()
    user.ampflow(*arguments)
    wait_for("the run's end", lambda: None not in user.codes(), 600)
    assert state_of(user) == "done"
    user.check_study(trials=2, epochs=4000)
    user.check_continued(before)
    assert result_of(user.out)["trials"]["complete"] == 2
    user.check_nothing_left()


def test_a_driver_that_is_cancelled(serverless_user: SiteUser) -> None:
    # The scheduler tells the driver, and all beside it: Prefect's server, and what would clear up
    # after it. It ends like one that is asked to.
    user = serverless_user
    name = user.profile("mine")
    user.ampflow(*user.tuning(name, command="run", epochs=400_000, more=("--detach",)))
    let_go(user.wait_and_hold(2))
    user.ampflow("jobs", "cancel", "--all")
    wait_for("the driver's end", lambda: user.codes() != [None], 100)
    assert state_of(user) == "stopped"
    (record,) = (user.state / "ampflow" / "runs").glob("*.json")
    assert "goes on from here" in user.ampflow("status", record.stem)
    user.check_nothing_left()


def test_the_end_of_the_drivers_time(user: SiteUser) -> None:
    # The driver's job ends while there is work: it submits itself again, and the run goes on to
    # its end under the same name.
    first = f'[ "$SLURM_JOB_NAME" = ampflow-run ] && mkdir {user.cwd.parent}/first 2>/dev/null'
    soon = "export AMPFLOW_JOB_MARGIN=1 AMPFLOW_JOB_END=$(($(date +%s) + 15))"
    name = user.profile("mine", prologue=[f"{first} && {soon}"])
    user.ampflow(*user.tuning(name, command="run", epochs=4000, more=("--detach",)))
    held = user.wait_and_hold(2)  # until the driver's time is over
    begun = (user.cwd.parent / "first").stat().st_mtime
    wait_for("the end of the driver's time", lambda: time.time() > begun + 15)
    let_go(held)
    wait_for("the run's end", lambda: user.codes() != [None], 600)
    assert user.codes() == [0], user.ampflow("status")
    assert state_of(user) == "done"
    drivers = [job for job in user.submitted() if job["JobName"] == "ampflow-run"]
    assert len(drivers) == 2
    user.check_study(trials=2, epochs=4000)
    user.check_nothing_left()


def test_detached_on_this_machine(user: SiteUser) -> None:
    # Without a cluster a run goes on in the background.
    arguments = user.tuning("", command="run", trials=2, epochs=4000, more=("--detach",))
    user.ampflow(*arguments)
    held = user.wait_and_hold(2)
    assert state_of(user) == "running"
    let_go(held)
    user.ampflow("stop")
    assert state_of(user) == "stopped"
    user.check_nothing_left()
