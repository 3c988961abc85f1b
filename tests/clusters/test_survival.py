"""Jobs, nodes and drivers that die while trials are in training."""

from __future__ import annotations

import re
import signal

import pytest
from private_slurm import wait_for
from site_user import SiteUser

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LONG = 8000  # epochs: half a minute


@pytest.mark.parametrize("dialect", ["slurm", "torque"])
def test_jobs_that_are_killed(user: SiteUser, dialect: str) -> None:
    # A job that is cancelled and one whose processes are killed are replaced while the run goes
    # on. Their trials go on from their checkpoints: the same trials, each told once.
    name = user.profile("mine", dialect)
    run = user.start(*user.tuning(name, trials=2, epochs=LONG))
    user.wait_for_training(run, trials=2)

    # Meanwhile the user sees her jobs: which trial each trains, on which node, for how long.
    listed = user.ampflow("jobs")
    assert len(re.findall(r"ampflow-\w{6} +running +\S+ +\d+:\d\d.* trial [01]", listed)) == 2

    first, second = user.slurm.queue("RUNNING")
    before = user.epochs()
    user.slurm.kill(first)
    user.ampflow("jobs", "cancel", second)
    code, said = user.end(run)
    assert code == 0, said
    user.check_study(trials=2, epochs=LONG)
    user.check_continued(before)
    assert 3 <= len(user.submitted()) <= 5
    user.check_nothing_left()


def test_the_end_of_a_jobs_time(user: SiteUser) -> None:
    # A trial that takes longer than a job may run goes on in the next job: workers stop before
    # their job's end, and one that does not know of it is killed by Slurm.
    unaware = "[ $((SLURM_JOB_ID % 2)) = 0 ] && unset AMPFLOW_JOB_END"
    name = user.profile("short", walltime="00:01:00", prologue=[unaware])
    run = user.start(*user.tuning(name, trials=2, epochs=20_000))
    before = user.wait_for_training(run, trials=2)
    code, said = user.end(run)
    assert code == 0, said
    user.check_study(trials=2, epochs=20_000)
    user.check_continued(before)
    assert len(user.submitted()) > 2
    user.check_nothing_left()


@pytest.mark.parametrize("when", ["queued", "training"])
def test_a_driver_that_is_killed(user: SiteUser, when: str) -> None:
    # After SIGKILL nothing stays in the queue, be it queued or running, and the same command
    # finishes the study with what was done before.
    blocked = ["--hold"] if when == "queued" else []
    name = user.profile("mine", directives=blocked)
    arguments = user.tuning(name, trials=2, epochs=LONG)
    run = user.start(*arguments)
    before = user.wait_for_training(run, trials=2) if when == "training" else {}
    wait_for("jobs in the queue", lambda: len(user.slurm.queue()) == 2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    user.check_nothing_left()
    if when == "training":
        user.ampflow(*arguments)
        user.check_study(trials=2, epochs=LONG)
        user.check_continued(before)
        user.check_nothing_left()
