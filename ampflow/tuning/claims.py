"""Which trial a worker takes next: an interrupted one, else a new one within the budget.

Every trial number has a lease (see leases.py), also the number of a trial that does not exist
yet. Whoever has that lease creates the trial, so that no more trials are ever made than the
budget has numbers.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from ampflow.tuning.draft import Begun, TrialStorage
from ampflow.tuning.leases import Lease, Leases

__all__ = ["Claim", "Claims", "rest_after"]

_SCAN = 1.0  # seconds between two looks of any worker at all leases, while there are new trials
_REST, _LONGEST_REST = 50, 10.0  # as many times what a look takes, and seconds
_LONGEST_PAUSE = 0.5  # seconds between two looks at a trial that somebody else is creating


@dataclass(frozen=True)
class Claim:
    """A trial that is ours.

    Parameters
    ----------
    number, trial_id
        Of the trial in the study, and in its storage.
    lease
        What says that it is ours.
    is_new
        Whether nobody had it before.
    """

    number: int
    trial_id: int
    lease: Lease
    is_new: bool


class Claims:
    """The trials of a study that a worker may take.

    Parameters
    ----------
    budget
        Number of trials that the study is to have. Trials numbered from it on, from a time when
        the budget was larger, are left alone.
    """

    def __init__(self, study: optuna.Study, leases: Leases, budget: int) -> None:
        # Optuna's public interface has no way to choose a trial: hence its storage, here.
        self._id, self._storage = study._study_id, study._storage
        self._trials = cast("TrialStorage", study._storage)
        self._leases, self._budget = leases, budget
        self._next_scan = -math.inf  # when all leases are to be looked at

    def next(self, skip: Collection[int] = ()) -> Claim | None:
        """Claim a trial, other than those in `skip`; None if there is none to claim.

        Raises
        ------
        StorageError
            If the folder of leases cannot be written.
        """
        pause = 0.002
        while True:
            is_full = self._trials.count(self._id) >= self._budget
            # With hundreds of workers, a look at the lease of each before every trial would
            # cost more than all else. There is about a worker to each trial that is begun.
            if is_full or time.monotonic() > self._next_scan:
                begun = self._open()
                if claim := self._begun(begun, skip):
                    return claim
                self._next_scan = time.monotonic() + _SCAN * len(begun)
            if is_full:
                return None
            if claim := self._new():
                return claim
            time.sleep(random.uniform(0, pause))  # noqa: S311 - somebody else is creating it
            pause = min(2 * pause, _LONGEST_PAUSE)

    def unfinished(self) -> bool:
        """Tell whether trials of the budget are still being worked on, by anybody."""
        return bool(self._open())

    def tidy(self) -> None:
        """Remove leases on trials that ended, left by workers killed just after that."""
        newest = self._leases.newest()
        ended = {str(number) for number in range(self._trials.count(self._id))}
        ended -= {str(trial.number) for trial in self._trials.begun(self._id)}
        for key, generation in newest.items():
            if key in ended:
                self._leases.at(key, generation).finish()

    def _open(self) -> list[Begun]:
        return [trial for trial in self._trials.begun(self._id) if trial.number < self._budget]

    def _begun(self, begun: list[Begun], skip: Collection[int]) -> Claim | None:
        free = [trial for trial in begun if trial.number not in skip]
        newest = self._leases.newest() if free else {}
        for trial in sorted(free, key=lambda trial: trial.is_waiting):
            lease = self._leases.claim(str(trial.number), newest)
            if lease is None:
                continue
            with _released_on_error(lease):
                if self._start(trial.trial_id, lease):
                    return Claim(trial.number, trial.trial_id, lease, is_new=False)
        return None

    def _start(self, trial_id: int, lease: Lease) -> bool:
        """Have a trial that is ours run, unless it ended since we looked."""
        try:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            lease.finish()
            return False
        return True

    def _new(self) -> Claim | None:
        lease: Lease | None = None

        def take(number: int) -> bool:
            nonlocal lease
            if number < self._budget:
                lease = self._leases.claim(str(number))
            return lease is not None

        try:
            made = self._trials.create(self._id, take)
        except BaseException:  # left to others, if the storage fails us
            if lease is not None:
                lease.release()
            raise
        if lease is None:
            return None
        if made is None:
            lease.finish()
            return None
        return Claim(made.number, made.trial_id, lease, is_new=True)


def rest_after(start: float, least: float) -> float:
    """Return the seconds, `least` or more, until the next look at all trials.

    The last one began at `start` (`time.monotonic`). Hundreds of workers that look at hundreds of
    leases all the time would be in the way of those who work.
    """
    return max(least, min(_LONGEST_REST, _REST * (time.monotonic() - start)))


@contextmanager
def _released_on_error(lease: Lease) -> Iterator[None]:
    """Leave the work to others if the storage fails us."""
    try:
        yield
    except BaseException:
        lease.release()
        raise
