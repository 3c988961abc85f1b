"""What a trial has to tell its storage, held back and written together.

A transaction, or a locked file, costs a trial more than what is written in it. Nobody but the
trial's own pruner needs its errors while it runs, and that has them at hand: so they may wait.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import RDBStorage, _create_scoped_session
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

__all__ = ["Draft", "Journal"]

_WAIT = 1.0  # seconds that a trial's errors are held back


class Journal(JournalStorage):
    """Optuna's journal; several operations of one trial may be written at once."""

    def __init__(self, backend: BaseJournalBackend) -> None:
        self._drafts = threading.local()  # a worker may train several trials at once
        super().__init__(backend)

    def write(self, trial_id: int, changes: _Changes) -> None:
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


@dataclass
class _Changes:
    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    state: TrialState | None = None
    values: Sequence[float] | None = None


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
        self._changes, self._written = _Changes(), time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; of a new one it is known what there is."""
        if trial_id != self._trial_id or not self._is_new:
            return self._storage.get_trial(trial_id)
        trial = create_trial(state=TrialState.RUNNING)
        trial.number, trial._trial_id = self._number, trial_id
        return trial

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
        changes, self._changes, self._written = self._changes, _Changes(), time.monotonic()
        if changes == _Changes():
            return
        if isinstance(self._storage, Journal):
            self._storage.write(self._trial_id, changes)
        else:
            assert isinstance(self._storage, _CachedStorage)
            _write_rows(self._storage._backend, self._trial_id, changes)


def _write_rows(database: RDBStorage, trial_id: int, changes: _Changes) -> None:
    with _create_scoped_session(database.scoped_session) as session:
        ends = changes.state is not None
        trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=ends)
        database.check_trial_is_updatable(trial_id, trial.state)
        for model, key, rows in _rows(changes):
            _upsert(session, model, key, [{"trial_id": trial_id} | row for row in rows])
        if changes.state is not None:
            for objective, value in enumerate(changes.values or ()):
                database._set_trial_value_without_commit(session, trial, objective, value)
            trial.state, trial.datetime_complete = changes.state, datetime.now()


def _rows(changes: _Changes) -> list[tuple[Any, str, list[dict[str, Any]]]]:
    """Return the rows of each table, and the column that tells those of a trial apart."""
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    params = [
        {"param_name": name, "param_value": value, "distribution_json": distribution_to_json(item)}
        for name, (value, item) in changes.params.items()
    ]
    user, system = (
        [{"key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        for attrs in (changes.user_attrs, changes.system_attrs)
    )
    reports = [
        {"step": step}
        | dict(zip(("intermediate_value", "intermediate_value_type"), stored(v), strict=True))
        for step, v in changes.reports.items()
    ]
    return [
        (models.TrialParamModel, "param_name", params),
        (models.TrialUserAttributeModel, "key", user),
        (models.TrialSystemAttributeModel, "key", system),
        (models.TrialIntermediateValueModel, "step", reports),
    ]


def _upsert(session: Session, model: Any, key: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or replace what is there: a late worker may have written the same."""
    if not rows:
        return
    columns = rows[0].keys() - {"trial_id", key}
    kind = session.get_bind().dialect.name
    if kind == "mysql":
        put = mysql.insert(model).values(rows)
        session.execute(put.on_duplicate_key_update({c: put.inserted[c] for c in columns}))
        return
    add = (postgresql if kind == "postgresql" else sqlite).insert(model).values(rows)
    session.execute(
        add.on_conflict_do_update(
            index_elements=["trial_id", key], set_={c: add.excluded[c] for c in columns}
        )
    )
