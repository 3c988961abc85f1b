"""Jobs, nodes and drivers that die while trials are in training."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress

import psutil
import pytest
from private_slurm import wait_for
from site_user import SiteUser, let_go

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LONG = 4000  # epochs: some ten seconds
UNAWARE = "unset AMPFLOW_JOB_END"


@pytest.mark.parametrize("dialect", ["slurm", "torque"])
def test_jobs_that_are_killed(user: SiteUser, dialect: str) -> None:
    # A job that is cancelled and one whose processes are killed are replaced while the run goes
    # on. Their trials go on from their checkpoints: the same trials, each told once.
    name = user.profile("mine", dialect)
    run = user.start(*user.tuning(name, trials=2, epochs=LONG))
    user.wait_and_hold(2, run)

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


def test_the_end_of_a_jobs_time(user: SiteUser, other_user: SiteUser) -> None:
    # A trial that takes longer than a job may run goes on in the next job. A worker that knows
    # of its job's end stops before; one that does not is killed by the scheduler. Meanwhile they
    # are suspended: however fast the machine is, their time ends first.
    ends = "export AMPFLOW_JOB_MARGIN=2 AMPFLOW_JOB_END=$(($(date +%s) + 40))"
    first = f"if mkdir {user.cwd.parent}/first 2>/dev/null; then {ends}; else {UNAWARE}; fi"
    runs, before, knowing = {}, {}, []
    for site, dialect, count in ((user, "slurm", 2), (other_user, "torque", 1)):
        name = site.profile("short", dialect, prologue=[first if site is user else UNAWARE])
        runs[site] = site.start(*site.tuning(name, trials=count, epochs=LONG, workers=count))

    def all_had_their_turn() -> bool:
        for site, count in ((user, 2), (other_user, 1)):
            assert runs[site].poll() is None, site.end(runs[site])[1]
            if site in before or not (held := site.hold(count)):
                continue
            for worker in held:
                if _job_end(worker):
                    knowing.append(worker)
                else:
                    site.slurm.limit(worker.environ()["SLURM_JOB_ID"])
            before[site] = site.epochs()
        for worker in [worker for worker in knowing if time.time() > _job_end(worker)]:
            let_go([worker])
            knowing.remove(worker)
        return len(before) == 2 and not knowing

    wait_for("the last seconds of the job that knows", all_had_their_turn)
    for site, run in runs.items():
        code, said = site.end(run)
        assert code == 0, said
    assert {job["JobState"] for job in user.submitted("pace-ice")[:2]} == {"COMPLETED", "TIMEOUT"}
    assert other_user.submitted("pace-ice-gpu")[0]["JobState"] == "TIMEOUT"
    for site, count in ((user, 2), (other_user, 1)):
        site.check_study(trials=count, epochs=LONG)
        site.check_continued(before[site])
        site.check_nothing_left()


def _job_end(worker: psutil.Process) -> float:
    """Return when a worker stops because its job ends; 0 if it does not know."""
    with suppress(psutil.Error):
        known = worker.environ()
        if "AMPFLOW_JOB_END" in known:
            return float(known["AMPFLOW_JOB_END"]) - float(known["AMPFLOW_JOB_MARGIN"])
    return 0.0


@pytest.mark.parametrize(("when", "dialect"), [("queued", "slurm"), ("training", "torque")])
def test_a_driver_that_is_killed(user: SiteUser, when: str, dialect: str) -> None:
    # After SIGKILL nothing stays in the queue, be it queued or running, and the same command
    # finishes the study with what was done before.
    blocked = ["--hold"] if when == "queued" else []
    name = user.profile("mine", dialect, directives=blocked)
    arguments = user.tuning(name, trials=2, epochs=LONG)
    run = user.start(*arguments)
    if when == "training":
        user.wait_and_hold(2, run)
    wait_for("jobs in the queue", lambda: len(user.slurm.queue()) == 2)
    before = user.epochs()
    run.send_signal(signal.SIGKILL)
    run.wait()
    user.check_nothing_left()
    if when == "training":
        user.ampflow(*arguments)
        user.check_study(trials=2, epochs=LONG)
        user.check_continued(before)
        user.check_nothing_left()
        # What it could not say itself is seen in Prefect, too.
        assert user.flow_states() == [{"Crashed"}, {"Completed"}]
