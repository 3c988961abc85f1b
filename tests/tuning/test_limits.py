from __future__ import annotations

import time

import pytest

from ampflow.errors import OptionError
from ampflow.tuning.limits import Limits, job_end


def test_job_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMPFLOW_JOB_END", raising=False)
    assert job_end() is None
    monkeypatch.setenv("AMPFLOW_JOB_END", "1800000000.5")
    assert job_end() == 1800000000.5
    for wrong in ("02:00:00", "nan"):
        monkeypatch.setenv("AMPFLOW_JOB_END", wrong)
        with pytest.raises(OptionError, match=f"AMPFLOW_JOB_END={wrong}: not a time"):
            job_end()


# A trial needs two margins before the end of the job, an epoch its own time and one margin; the
# end of a run's time kills nobody and needs no margin.
@pytest.mark.parametrize(
    ("left", "trial", "epoch"),
    [(100, "job over", None), (45, "job over", "job over"), (130, None, None)],
)
def test_end_of_a_job(
    monkeypatch: pytest.MonkeyPatch, left: float, trial: str | None, epoch: str | None
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    limits = Limits(lambda: False, job_end=1000 + left, margin=60)
    assert limits.before_trial() == trial
    assert limits.before_epoch(20) == epoch


def test_end_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    limits = Limits(lambda: False, deadline=1010)
    assert limits.before_trial() is None
    assert limits.before_epoch(5) is None
    assert limits.before_epoch(20) == "deadline"
    assert Limits(lambda: False, deadline=999).before_trial() == "deadline"


def test_stop_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(lambda: True, deadline=0, job_end=0)
    assert limits.before_trial() == limits.before_epoch(1) == "stopped"
