"""Whole tuning runs in real jobs, through Slurm's own commands and through Torque's."""

from __future__ import annotations

import pytest
from site_user import SiteUser, result_of

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("dialect", ["slurm", "torque"])
def test_a_whole_run(user: SiteUser, dialect: str) -> None:
    # Trials are trained in jobs, as many as asked for, a report is made, and nothing is left:
    # no job in the queue, no file where the user is, no fleet's folder, no process.
    name = user.profile("mine", dialect)
    user.ampflow(*user.tuning(name, command="run", trials=3))
    assert result_of(user.out)["trials"]["complete"] == 3
    assert (user.out / "report.html").is_file()
    user.check_study(trials=3, epochs=5)
    assert len(user.submitted()) == 2
    assert set(user.trials()["worker"]) <= {"worker 1", "worker 2"}
    user.check_nothing_left()
    assert [path.name for path in (user.state / "ampflow").iterdir()] == ["runs"]
