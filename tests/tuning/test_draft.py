from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from fake_trainer import FakeTrainer
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import TrialState

from ampflow.tuning import draft
from ampflow.tuning.database import Database
from ampflow.tuning.draft import Draft
from ampflow.tuning.journal import Journal
from ampflow.tuning.storage import open_storage
from ampflow.tuning.study import open_study, prepare_study
from ampflow.tuning.worker import run_worker


def begin(storage: str, path: Path) -> tuple[optuna.Study, Draft]:
    opened = open_storage(storage, path / "s.log")
    study = optuna.create_study(study_name=str(path), storage=opened)
    trial_id = study._storage.create_new_trial(study._study_id)
    return study, Draft(study._storage, trial_id, 0, is_new=True)


def fill(draft: Draft) -> None:
    draft.set_trial_param(draft._trial_id, "lr", 0.5, FloatDistribution(0, 1))
    draft.set_trial_user_attr(draft._trial_id, "seen", [1, {}])
    draft.set_trial_system_attr(draft._trial_id, "note", "n")
    for step in (1, 2, 3):
        draft.set_trial_intermediate_value(draft._trial_id, step, 1 / step)


# Nothing is written before its time, and all of it then, twice the same where a late worker did.
def test_all_arrives(storage: str, tmp_path: Path) -> None:
    study, draft = begin(storage, tmp_path)
    fill(draft)
    assert study.trials[0].params == study.trials[0].intermediate_values == {}
    draft.write()
    fill(draft)
    draft.end(TrialState.COMPLETE, [0.25])
    (trial,) = study.trials
    assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, 0.25, {"lr": 0.5})
    assert (trial.user_attrs, trial.system_attrs) == ({"seen": [1, {}]}, {"note": "n"})
    assert trial.intermediate_values == {1: 1.0, 2: 1 / 2, 3: 1 / 3}
    assert trial.datetime_complete is not None


# What sampler and pruner noted of the trial is known at once, also before it is written, and by
# whoever goes on with the trial.
def test_notes_are_known(storage: str, tmp_path: Path) -> None:
    study, draft = begin(storage, tmp_path)
    for number in range(2):
        draft.set_trial_system_attr(draft._trial_id, f"rung_{number}", number)
    both = {"rung_0": 0, "rung_1": 1}
    assert draft.get_trial_system_attrs(draft._trial_id) == both
    assert study.trials[0].system_attrs == {}
    draft.write()
    later = Draft(study._storage, draft._trial_id, 0, is_new=False)
    assert later.get_trial_system_attrs(draft._trial_id) == both
    later.set_trial_system_attr(draft._trial_id, "rung_2", 2)
    assert later.get_trial_system_attrs(draft._trial_id) == both | {"rung_2": 2}


# A trial that ended takes nothing more, of what is written together not a part.
def test_ended_trial_is_left_alone(storage: str, tmp_path: Path) -> None:
    study, late = begin(storage, tmp_path)
    fill(late)
    Draft(study._storage, late._trial_id, 0, is_new=True).end(TrialState.COMPLETE, [1.0])
    before = study.trials
    with pytest.raises(UpdateFinishedTrialError):
        late.end(TrialState.COMPLETE, [2.0])
    assert study.trials == before


# Also where it ended after we looked; and what was refused is not in the way of what follows.
def test_trial_that_ends_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, late = begin("", tmp_path)
    fill(late)
    Draft(study._storage, late._trial_id, 0, is_new=True).end(TrialState.COMPLETE, [1.0])
    monkeypatch.setattr(Journal, "check_trial_is_updatable", lambda *_: None)
    with pytest.raises(UpdateFinishedTrialError):
        late.end(TrialState.COMPLETE, [2.0])
    assert [(trial.value, trial.params) for trial in study.trials] == [(1.0, {})]


# Trials are made in turn, each by who takes its number.
def test_trials_are_made_in_turn(storage: str, tmp_path: Path) -> None:
    study, draft = begin(storage, tmp_path)
    opened: Any = study._storage
    asked: list[int] = []
    assert opened.create(study._study_id, lambda number: bool(asked.append(number))) is None
    _, made, _ = opened.create(study._study_id, lambda number: number == 1)
    assert asked == [1]
    assert [trial._trial_id for trial in study.trials] == [draft._trial_id, made]
    assert study.trials[1].state == TrialState.RUNNING
    began, other = (trial.datetime_start for trial in study.trials)
    assert began is not None
    assert other is not None
    assert abs(other - began) < timedelta(minutes=59)  # in the same zone
    assert [trial.number for trial in study.trials] == [0, 1]
    assert opened.count(study._study_id) == 2
    draft.end(TrialState.FAIL, None)
    assert opened.begun(study._study_id) == [(1, made, False)]


# One who took a number that somebody else was faster with makes no trial of another number.
def test_trial_that_is_made_meanwhile(tmp_path: Path) -> None:
    study, _ = begin("", tmp_path)
    opened: Any = study._storage
    assert opened.create(study._study_id, lambda _: bool(study.ask())) is None
    assert len(study.trials) == 2


# SQLite's lock is taken before a trial's state is read: one that ends meanwhile ends once.
def test_end_waits_for_another_on_sqlite(tmp_path: Path) -> None:
    study, draft = begin(f"sqlite:///{tmp_path}/s.db", tmp_path)
    opened = study._storage
    assert isinstance(opened, Database)
    trials = models.TrialModel.__table__
    with ThreadPoolExecutor(1) as threads:
        with opened._writing() as connection:
            told = threads.submit(draft.end, TrialState.COMPLETE, [2.0])
            time.sleep(0.2)  # time to read the state, if that is done without the lock
            connection.execute(trials.update().values(state=TrialState.FAIL))
        assert isinstance(told.exception(), UpdateFinishedTrialError)
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.FAIL, None)


@pytest.fixture
def commits() -> Iterator[list[Any]]:
    """What is added to at every commit."""
    done: list[Any] = []
    note = done.append
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", note)
    yield done
    sqlalchemy.event.remove(sqlalchemy.Engine, "commit", note)


# However many epochs are reported, a short trial costs a database the same few transactions.
def test_transactions_of_a_trial(
    make_spec: Any,
    trainer: FakeTrainer,
    tmp_path: Path,
    commits: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draft, "_WAIT", math.inf)  # short, however slow the machine is
    counts = []
    for epochs in (3, 30):
        url = f"sqlite:///{tmp_path}/{epochs}.db"
        spec = make_spec(trials=4, epochs=epochs, storage=url)
        prepare_study(spec)
        commits.clear()
        assert run_worker(spec, "w", objective=trainer).complete == 4
        counts.append(len(commits))
        assert all(
            len(trial.intermediate_values) >= epochs - 3 for trial in open_study(spec).trials
        )
    assert counts[0] == counts[1] < 4 * 8
