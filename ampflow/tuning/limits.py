"""When a worker begins no trial any more, and when it lets go of the one it trains."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ampflow.errors import OptionError

__all__ = ["MARGIN", "Ended", "Limits", "job_end", "job_margin"]

MARGIN = 60.0
"""Seconds before the end of its job at which a worker is done with everything."""

Ended = Literal["done", "stopped", "deadline", "job over", "gpu hours"]
"""Why a worker ended: no trial is left to claim; it was asked to stop; the run's time is used
up; the job that it runs in ends soon; the study's GPU time is used up."""


def job_end() -> float | None:
    """Return when the batch job of this process ends (seconds since 1970); None if nobody says.

    Read from the environment variable AMPFLOW_JOB_END.

    Raises
    ------
    OptionError
        If that is not a number.
    """
    return _seconds("AMPFLOW_JOB_END", None, "seconds since 1970: date +%s")


def job_margin() -> float:
    """Return how long before its job's end a worker is to be done with everything, in seconds.

    Read from the environment variable AMPFLOW_JOB_MARGIN: a short job has a shorter one.

    Raises
    ------
    OptionError
        If that is not a number.
    """
    margin = _seconds("AMPFLOW_JOB_MARGIN", MARGIN, "seconds")
    assert margin is not None
    return margin


def _seconds(variable: str, default: float | None, hint: str) -> float | None:
    said = os.environ.get(variable)
    if not said:
        return default
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise OptionError(f"{variable}={said}: not a time", hint)
    return seconds


@dataclass(frozen=True)
class Limits:
    """What ends a worker's work.

    Parameters
    ----------
    stop
        Says whether it is to stop.
    deadline
        When the run's time is used up (seconds since 1970).
    job_end
        When its job is killed (seconds since 1970).
    margin
        Seconds before `job_end` at which everything is written and told.
    """

    stop: Callable[[], bool]
    deadline: float | None = None
    job_end: float | None = None
    margin: float = MARGIN

    def before_trial(self) -> Ended | None:
        """Say why no trial is to be begun; None if one may be.

        A job in its last two margins has no time for one: reading the data alone may take one.
        """
        return self._ended(self.margin)

    def before_epoch(self, seconds: float) -> Ended | None:
        """Say why an epoch that takes about `seconds` is not to be begun; None if it may be."""
        return self._ended(seconds, seconds)

    def _ended(self, in_job: float, in_run: float = 0.0) -> Ended | None:
        """Say what ends before so many seconds are over."""
        now = time.time()
        if self.stop():
            return "stopped"
        if self.job_end is not None and now + in_job >= self.job_end - self.margin:
            return "job over"
        if self.deadline is not None and now + in_run >= self.deadline:
            return "deadline"
        return None
