"""What a trial has to tell its storage, held back and written together.

A transaction, or a locked file, costs a trial more than what is written in it. Nobody but the
trial's own pruner needs its errors while it runs, and that has them at hand: so they may wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

__all__ = ["Begun", "Changes", "Draft", "TrialStorage"]

_WAIT = 10.0  # seconds that a trial's errors are held back, as far apart as checkpoints


@dataclass
class Changes:
    """What is to be written to a trial; its state, and values, if it is to end."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    state: TrialState | None = None
    values: Sequence[float] | None = None


class Begun(NamedTuple):
    """A trial that has not ended."""

    number: int
    trial_id: int
    is_waiting: bool


class TrialStorage(Protocol):
    """What the storages of studies can do that Optuna's cannot, or not as fast."""

    def count(self, study_id: int) -> int:
        """Return how many trials a study has."""

    def begun(self, study_id: int) -> list[Begun]:
        """Return the trials of a study that have not ended, by number."""

    def create(self, study_id: int, take: Callable[[int], bool]) -> Begun | None:
        """Create the next trial, if `take` says so of its number.

        None if it does not, or somebody else was faster.
        """

    def write(self, trial_id: int, changes: Changes) -> None:
        """Write `changes` of a trial, all or none.

        Raises
        ------
        UpdateFinishedTrialError
            If the trial ended.
        """


class Draft:
    """A storage that holds back what is written to one trial; all else is the storage's own.

    Parameters
    ----------
    is_new
        Whether nothing was written to the trial before.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, number: int, is_new: bool) -> None:
        self._storage, self._trial_id, self._is_new = storage, trial_id, is_new
        self._number = number
        self._changes, self._written = Changes(), time.monotonic()
        self._notes: dict[str, Any] | None = {} if is_new else None  # of sampler and pruner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; of a new one it is known what there is."""
        if trial_id != self._trial_id or not self._is_new:
            return self._storage.get_trial(trial_id)
        trial = create_trial(state=TrialState.RUNNING)
        trial.number, trial._trial_id = self._number, trial_id
        return trial

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Return what the trial's sampler and pruner noted: a pruner asks at every report."""
        if self._notes is None:
            self._notes = self._storage.get_trial_system_attrs(trial_id)
        return dict(self._notes)

    def set_trial_param(
        self, trial_id: int, name: str, value: float, distribution: BaseDistribution
    ) -> None:
        """Hold back a hyperparameter."""
        self._changes.params[name] = value, distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Hold back an attribute."""
        self._changes.user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Hold back what a sampler or pruner notes."""
        self._notes = self.get_trial_system_attrs(trial_id) | {key: value}
        self._changes.system_attrs[key] = value

    def set_trial_intermediate_value(self, trial_id: int, step: int, value: float) -> None:
        """Hold back a report."""
        self._changes.reports[step] = value

    @property
    def is_due(self) -> bool:
        """Whether others need what is held back, or have waited for it."""
        return bool(self._changes.system_attrs) or time.monotonic() - self._written > _WAIT

    def end(self, state: TrialState, values: Sequence[float] | None) -> None:
        """Write all, and that the trial ended, in one transaction."""
        self._changes.state, self._changes.values = state, values
        self.write()

    def write(self) -> None:
        """Write all that is held back, in one transaction.

        Raises
        ------
        UpdateFinishedTrialError
            If the trial ended.
        """
        changes, self._changes, self._written = self._changes, Changes(), time.monotonic()
        if changes == Changes():
            return
        cast("TrialStorage", self._storage).write(self._trial_id, changes)
