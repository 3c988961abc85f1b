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

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ampflow.tuning.leases import Lease, Leases

__all__ = ["Claim", "Claims"]

_SCAN = 1.0  # seconds between two looks at the leases of all trials, while there are new ones
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
        self._study, self._storage = study, study._storage
        self._leases, self._budget = leases, budget
        self._scanned = -math.inf  # when all leases were looked at

    def next(self, skip: Collection[int] = ()) -> Claim | None:
        """Claim a trial, other than those in `skip`; None if there is none to claim.

        Raises
        ------
        StorageError
            If the folder of leases cannot be written.
        """
        pause = 0.002
        while True:
            trials = self._study.get_trials(deepcopy=False)
            is_full = len(trials) >= self._budget
            # With hundreds of workers, a look at the lease of each before every trial would
            # cost more than all else.
            if is_full or time.monotonic() - self._scanned > _SCAN:
                if claim := self._begun(trials, skip):
                    return claim
                self._scanned = time.monotonic()
            if is_full:
                return None
            if claim := self._new(len(trials)):
                return claim
            time.sleep(random.uniform(0, pause))  # noqa: S311 - somebody else is creating it
            pause = min(2 * pause, _LONGEST_PAUSE)

    def unfinished(self) -> bool:
        """Tell whether trials of the budget are still being worked on, by anybody."""
        trials = self._study.get_trials(deepcopy=False)
        return any(self._is_open(trial) for trial in trials)

    def tidy(self) -> None:
        """Remove leases on trials that ended, left by workers killed just after that."""
        trials = self._study.get_trials(deepcopy=False)
        ended = {str(trial.number) for trial in trials if trial.state.is_finished()}
        for key, generation in self._leases.newest().items():
            if key in ended:
                self._leases.at(key, generation).finish()

    def _is_open(self, trial: FrozenTrial) -> bool:
        return trial.number < self._budget and not trial.state.is_finished()

    def _begun(self, trials: list[FrozenTrial], skip: Collection[int]) -> Claim | None:
        free = [trial for trial in trials if self._is_open(trial) and trial.number not in skip]
        newest = self._leases.newest() if free else {}
        for trial in sorted(free, key=lambda trial: trial.state == TrialState.WAITING):
            lease = self._leases.claim(str(trial.number), newest)
            if lease is None:
                continue
            with _released_on_error(lease):
                if self._start(trial._trial_id, lease):
                    return Claim(trial.number, trial._trial_id, lease, is_new=False)
        return None

    def _start(self, trial_id: int, lease: Lease) -> bool:
        """Have a trial that is ours run, unless it ended since we looked."""
        try:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            lease.finish()
            return False
        return True

    def _new(self, number: int) -> Claim | None:
        lease = self._leases.claim(str(number))
        if lease is None:
            return None
        with _released_on_error(lease):
            if self._trial_id(number) is None:
                trial_id = self._storage.create_new_trial(self._study._study_id)
                if self._trial_id(number) == trial_id:
                    return Claim(number, trial_id, lease, is_new=True)
                # We slept so long that our lease was taken over: leave the trial to others.
                self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
            lease.finish()
        return None

    def _trial_id(self, number: int) -> int | None:
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(
                self._study._study_id, number
            )
        except KeyError:
            return None


@contextmanager
def _released_on_error(lease: Lease) -> Iterator[None]:
    """Leave the work to others if the storage fails us."""
    try:
        yield
    except BaseException:
        lease.release()
        raise
