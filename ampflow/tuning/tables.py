"""Optuna's tables, of which trials are read by plain statements.

Optuna maps every row to an object first, and a sampler or pruner that looks at other trials has
all running ones read again each time: that took most of a worker's time outside its trainings.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, bindparam, or_, select

__all__ = ["Tables"]

_studies: Table = models.StudyModel.__table__
_trials: Table = models.TrialModel.__table__
_params: Table = models.TrialParamModel.__table__
_STUDY = select(_studies.c.study_id).where(_studies.c.study_id == bindparam("study"))
_NEWS = (_trials.c.study_id == bindparam("study")) & or_(
    _trials.c.trial_id > bindparam("after"),
    _trials.c.trial_id.in_(bindparam("open", expanding=True)),
)
_WANTED = _NEWS & _trials.c.state.in_(bindparam("states", expanding=True))
_TRIALS = (
    select(
        *(_trials.c.trial_id, _trials.c.number, _trials.c.state),
        *(_trials.c.datetime_start, _trials.c.datetime_complete),
    )
    .where(_NEWS)
    .order_by(_trials.c.trial_id)
)


def _of_trials(model: Any, *columns: str) -> Any:
    """Select what a table has of the wanted trials."""
    table = model.__table__
    chosen = (table.c[name] for name in ("trial_id", *columns))
    return select(*chosen).join(_trials, _trials.c.trial_id == table.c.trial_id).where(_WANTED)


_VALUES = _of_trials(models.TrialValueModel, "objective", "value", "value_type")
_PARAMS = _of_trials(
    models.TrialParamModel, "param_name", "param_value", "distribution_json"
).order_by(_params.c.param_id)
_USER = _of_trials(models.TrialUserAttributeModel, "key", "value_json")
_SYSTEM = _of_trials(models.TrialSystemAttributeModel, "key", "value_json")
_REPORTS = _of_trials(
    models.TrialIntermediateValueModel,
    *("step", "intermediate_value", "intermediate_value_type"),
)
_value = models.TrialValueModel.stored_repr_to_value
_report = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
_distribution = lru_cache(1000)(json_to_distribution)


class Tables(RDBStorage):
    """Optuna's storage in a database, which reads trials faster."""

    def news(
        self, study_id: int, states: Container[TrialState], known_open: set[int], after: int
    ) -> tuple[list[FrozenTrial], set[int]]:
        """Read the trials that may have changed.

        Parameters
        ----------
        states
            Trials in these are read.
        known_open
            Ids of trials that had not ended when they were seen last.
        after
            The largest id of those that had; trials with larger ones are new.

        Returns
        -------
        trials
            By id.
        still_open
            Ids of those that have not ended, read or not.

        Raises
        ------
        KeyError
            If there is no such study.
        """
        wanted = {"study": study_id, "after": after, "open": [*known_open]}
        wanted["states"] = [state for state in TrialState if state in states]
        with self.engine.connect() as connection:
            # First: of a trial that has ended by then nothing changes any more.
            rows = connection.execute(_TRIALS, wanted).all()
            if not rows and connection.scalar(_STUDY, wanted) is None:
                raise KeyError(study_id)
            chosen = [row for row in rows if row.state in states]
            trials = _build(connection, wanted, chosen) if chosen else []
        return trials, {row.trial_id for row in rows if not row.state.is_finished()}

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        chosen = list(TrialState) if states is None else states
        return self.news(study_id, chosen, included_trial_ids, trial_id_greater_than)[0]


def _build(
    connection: Connection, wanted: dict[str, Any], rows: Sequence[Any]
) -> list[FrozenTrial]:
    def read(statement: Any) -> dict[int, list[Any]]:
        by_trial: dict[int, list[Any]] = defaultdict(list)
        for trial_id, *rest in connection.execute(statement, wanted):
            by_trial[trial_id].append(rest)
        return by_trial

    values, params, reports = read(_VALUES), read(_PARAMS), read(_REPORTS)
    user, system = read(_USER), read(_SYSTEM)
    return [
        FrozenTrial(
            number=number,
            trial_id=key,
            state=state,
            value=None,
            values=[_value(*stored) for _, *stored in sorted(values[key])] or None,
            datetime_start=start,
            datetime_complete=end,
            params={name: _distribution(d).to_external_repr(v) for name, v, d in params[key]},
            distributions=_distributions(params[key]),
            user_attrs={name: json.loads(text) for name, text in user[key]},
            system_attrs={name: json.loads(text) for name, text in system[key]},
            intermediate_values={step: _report(*stored) for step, *stored in reports[key]},
        )
        for key, number, state, start, end in rows
    ]


def _distributions(params: Sequence[Any]) -> dict[str, BaseDistribution]:
    return {name: _distribution(text) for name, _, text in params}
