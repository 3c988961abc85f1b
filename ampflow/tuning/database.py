"""Optuna's tables in a database, with few and short transactions.

What the workers do again and again is done by plain statements: Optuna's own reads all that is
known of every running trial to learn their number, and keeps the database's locks while it maps
rows to objects.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any, cast

from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, bindparam, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ampflow.tuning.draft import Begun, Changes
from ampflow.tuning.tables import Tables

__all__ = ["Database"]

_studies: Table = models.StudyModel.__table__
_trials: Table = models.TrialModel.__table__
_LOCK = select(_studies.c.study_id).where(_studies.c.study_id == bindparam("study"))
_COUNT = select(func.count()).where(_trials.c.study_id == bindparam("study"))
_BEGUN = (
    select(_trials.c.number, _trials.c.trial_id, _trials.c.state == TrialState.WAITING)
    .where(_trials.c.study_id == bindparam("study"))
    .where(_trials.c.state.in_([TrialState.RUNNING, TrialState.WAITING]))
    .order_by(_trials.c.number)
)
_ENDED = [state for state in TrialState if state.is_finished()]
_STATE = select(_trials.c.state).where(_trials.c.trial_id == bindparam("trial"))
_END = _trials.update().where(_trials.c.trial_id == bindparam("trial"))


class Database(_CachedStorage):
    """Optuna's storage in a database, as `ampflow.tuning.draft.TrialStorage`."""

    def count(self, study_id: int) -> int:
        """Return how many trials a study has."""
        with self._backend.engine.connect() as connection:
            return int(connection.scalar(_COUNT, {"study": study_id}) or 0)

    def begun(self, study_id: int) -> list[Begun]:
        """Return the trials of a study that have not ended, by number."""
        with self._backend.engine.connect() as connection:
            return [Begun(*row) for row in connection.execute(_BEGUN, {"study": study_id})]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in these states, by number.

        Trials that still run are not read for who asks for ended ones: the median rule, at each
        report.
        """
        if states is None or any(state in states for state in TrialState if state not in _ENDED):
            return super().get_all_trials(study_id, deepcopy, states)
        with self._lock:
            self._read_ended(study_id)
            trials = self._studies[study_id].trials
            found = [trials[number] for number in sorted(trials) if trials[number].state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _read_ended(self, study_id: int) -> None:
        known = self._studies.setdefault(study_id, _StudyInfo())
        ended, still_open = cast("Tables", self._backend).news(
            study_id, _ENDED, known.unfinished_trial_ids, known.last_finished_trial_id
        )
        self._add_trials_to_cache(study_id, ended)
        known.unfinished_trial_ids = still_open
        ids = [trial._trial_id for trial in ended]
        known.last_finished_trial_id = max([known.last_finished_trial_id, *ids])

    def create(self, study_id: int, take: Callable[[int], bool]) -> Begun | None:
        """Create the next trial, if `take` says so of its number."""
        with self._writing() as connection:
            # Nobody else creates one meanwhile: numbers have no constraint to be unique. And
            # hundreds who want one wait here in turn, instead of asking again and again.
            connection.execute(_LOCK.with_for_update(), {"study": study_id})
            number = int(connection.scalar(_COUNT, {"study": study_id}) or 0)
            if not take(number):
                return None
            trial: dict[str, Any] = {"number": number, "study_id": study_id}
            trial |= {"state": TrialState.RUNNING, "datetime_start": _now()}
            made = connection.execute(_trials.insert(), trial).inserted_primary_key
            assert made is not None
            return Begun(number, int(made[0]), is_waiting=False)

    def write(self, trial_id: int, changes: Changes) -> None:
        """Write `changes` of a trial, all or none.

        Raises
        ------
        UpdateFinishedTrialError
            If the trial ended.
        """
        with self._writing() as connection:
            state = connection.scalar(_STATE.with_for_update(), {"trial": trial_id})
            if state is None:
                raise KeyError(trial_id)
            if state.is_finished():
                raise UpdateFinishedTrialError(f"trial {trial_id} ended: {state.name}")
            for model, key, rows in _rows(changes):
                if rows:
                    put = _upsert(model.__table__, key, connection.dialect.name)
                    connection.execute(put, [{"trial_id": trial_id} | row for row in rows])
            if changes.state is not None:
                end = {"state": changes.state, "datetime_complete": _now()}
                connection.execute(_END.values(end), {"trial": trial_id})

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._backend.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                # It locks no rows: the whole of it then, before anything is read that is to
                # hold. Locked later, as its driver does, a state that was read may be out of date.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def _now() -> datetime:
    return datetime.now()  # local time, which is how Optuna keeps and reads it


def _rows(changes: Changes) -> list[tuple[Any, str, list[dict[str, Any]]]]:
    """Return the rows of each table, and the column that tells those of a trial apart."""
    reported = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    valued = models.TrialValueModel.value_to_stored_repr
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
        | dict(zip(("intermediate_value", "intermediate_value_type"), reported(v), strict=True))
        for step, v in changes.reports.items()
    ]
    values = [
        {"objective": objective} | dict(zip(("value", "value_type"), valued(v), strict=True))
        for objective, v in enumerate(changes.values or ())
    ]
    return [
        (models.TrialParamModel, "param_name", params),
        (models.TrialUserAttributeModel, "key", user),
        (models.TrialSystemAttributeModel, "key", system),
        (models.TrialIntermediateValueModel, "step", reports),
        (models.TrialValueModel, "objective", values),
    ]


@cache
def _upsert(table: Table, key: str, kind: str) -> Any:
    """Insert rows, or replace what is there: a late worker may have written the same."""
    columns = [
        column.name
        for column in table.columns
        if not column.primary_key and column.name not in ("trial_id", key)
    ]
    if kind == "mysql":
        put = mysql.insert(table)
        return put.on_duplicate_key_update({c: put.inserted[c] for c in columns})
    add = (postgresql if kind == "postgresql" else sqlite).insert(table)
    return add.on_conflict_do_update(
        index_elements=["trial_id", key], set_={c: add.excluded[c] for c in columns}
    )
