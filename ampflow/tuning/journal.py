"""Optuna's journal file, of which several lines may be written at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from ampflow.tuning.draft import Begun, Changes

__all__ = ["Journal"]


class Journal(JournalStorage):
    """Optuna's journal, as `ampflow.tuning.draft.TrialStorage`."""

    def __init__(self, backend: BaseJournalBackend) -> None:
        self._drafts = threading.local()  # a worker may train several trials at once
        super().__init__(backend)

    def count(self, study_id: int) -> int:
        """Return how many trials a study has."""
        return len(self.get_all_trials(study_id, deepcopy=False))

    def begun(self, study_id: int) -> list[Begun]:
        """Return the trials of a study that have not ended, by number."""
        return [
            Begun(trial.number, trial._trial_id, trial.state == TrialState.WAITING)
            for trial in self.get_all_trials(study_id, deepcopy=False)
            if not trial.state.is_finished()
        ]

    def create(self, study_id: int, take: Callable[[int], bool]) -> Begun | None:
        """Create the next trial, if `take` says so of its number."""
        number = self.count(study_id)
        if not take(number) or self.count(study_id) != number:  # somebody was faster
            return None
        trial_id = self.create_new_trial(study_id)
        if self.get_trial(trial_id).number == number:
            return Begun(number, trial_id, is_waiting=False)
        # We slept so long that our lease was taken over: leave what we made to others.
        self.set_trial_state_values(trial_id, TrialState.WAITING)
        return None

    def write(self, trial_id: int, changes: Changes) -> None:
        """Write `changes` of a trial, all or none.

        Raises
        ------
        UpdateFinishedTrialError
            If the trial ended.
        """
        logs: list[dict[str, Any]] = []
        self._drafts.logs = logs
        try:
            for name, (value, distribution) in changes.params.items():
                self.set_trial_param(trial_id, name, value, distribution)
            for key, value in changes.user_attrs.items():
                self.set_trial_user_attr(trial_id, key, value)
            for key, value in changes.system_attrs.items():
                self.set_trial_system_attr(trial_id, key, value)
            for step, value in changes.reports.items():
                self.set_trial_intermediate_value(trial_id, step, value)
            if changes.state is not None:
                self.set_trial_state_values(trial_id, changes.state, changes.values)
        finally:
            del self._drafts.logs
        self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)
        with self._thread_lock:
            self._backend.append_logs(logs)
            refusal = None
            while True:  # each line is refused where the trial ended just now
                try:
                    self._sync_with_backend()
                    break
                except UpdateFinishedTrialError as error:
                    refusal = error
        if refusal is not None:
            raise refusal

    def _write_log(self, op_code: int, extra_fields: dict[str, Any]) -> None:
        held = getattr(self._drafts, "logs", None)
        if held is None:
            super()._write_log(op_code, extra_fields)
        else:
            worker = self._replay_result.worker_id
            held.append({"op_code": op_code, "worker_id": worker, **extra_fields})

    def _sync_with_backend(self) -> None:
        if getattr(self._drafts, "logs", None) is None:
            super()._sync_with_backend()
