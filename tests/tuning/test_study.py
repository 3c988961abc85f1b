from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from pydantic import TypeAdapter

from ampflow.errors import OptionError, StorageError
from ampflow.experiment import Choices, Range, Training
from ampflow.tuning.leases import Leases
from ampflow.tuning.spec import claims_folder
from ampflow.tuning.study import (
    StudySpec,
    best_training,
    delete_study,
    held_trials,
    list_studies,
    open_study,
    prepare_study,
    study_summary,
    trial_table,
    trials_of,
)


# The same study goes on when only its size, its time or its workers change.
def test_name_is_of_what_trials_depend_on(make_spec: Any) -> None:
    spec = make_spec()
    for same in ({"trials": 99}, {"hours": 1.0}, {"workers": 3}, {"storage": "sqlite:///a.db"}):
        assert make_spec(**same).name == spec.name
    for other in ({"sampler": "tpe"}, {"pruner": "median"}, {"seed": 2}, {"epochs": 6}):
        assert make_spec(**other).name != spec.name
    assert make_spec(space={"lr": Range(low=1e-4, high=1e-2)}).name != spec.name
    other = dataclasses.replace(spec, data_digest="other")
    other.__dict__["trainer_version"] = 0
    assert other.name != spec.name


# An option that is searched has no fixed value, so the one under [training] does not matter.
def test_name_ignores_the_fixed_value_of_a_searched_option(make_spec: Any) -> None:
    spec = make_spec()
    other = dataclasses.replace(spec, training=Training(epochs=5, num_layers=9))
    other.__dict__["trainer_version"] = 0
    assert other.name == spec.name


# A spec travels to other machines, as pickle within Dask and as JSON elsewhere.
def test_spec_travels(make_spec: Any) -> None:
    spec = make_spec()
    assert pickle.loads(pickle.dumps(spec)) == spec
    adapter = TypeAdapter(StudySpec)
    assert adapter.validate_json(adapter.dump_json(spec)) == spec


def test_study_is_opened_again(make_spec: Any) -> None:
    spec = make_spec()
    prepare_study(spec).add_trial(_complete(0.5))
    study = prepare_study(make_spec(trials=50))
    assert len(study.trials) == 1
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs["described"]["sampler"] == "random"


def test_sampler_that_cannot_search_the_space(make_spec: Any) -> None:
    with pytest.raises(OptionError, match="without a step"):
        prepare_study(make_spec(sampler="grid"))


def test_summary_before_and_after(make_spec: Any) -> None:
    spec = make_spec()
    assert study_summary(spec).finished == 0
    assert not spec.cache.exists()
    study = prepare_study(spec)
    assert best_training(spec) is None
    study.add_trial(_complete(0.5))
    study.add_trial(_complete(0.25))
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    study.ask()
    summary = study_summary(spec)
    assert (summary.complete, summary.failed, summary.running) == (2, 1, 1)
    assert (summary.best_number, summary.best_value) == (1, 0.25)
    best = best_training(spec)
    assert best is not None
    assert (best.lr, best.epochs) == (0.25, 5)


# One row for each trial that was begun, and columns for what anybody asks of one.
def test_table(make_spec: Any) -> None:
    study = prepare_study(make_spec())
    study.add_trial(_complete(0.5))
    study.enqueue_trial({})
    study.add_trial(
        optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"reason": "diverged"})
    )
    table = trial_table(study)
    assert table.columns[:4].tolist() == ["number", "state", "value", "lr"]
    assert {"epochs", "seconds", "worker", "finished"} < set(table.columns)
    assert table["state"].tolist() == ["complete", "fail"]
    assert table["reason"].tolist()[1] == "diverged"
    assert trial_table(prepare_study(make_spec(seed=9))).empty


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/s.db"])
def test_list_and_delete(make_spec: Any, tmp_path: Path, storage: str) -> None:
    url = storage.format(tmp_path)
    one, two = make_spec(storage=url), make_spec(storage=url, seed=2)
    for spec in (one, two):
        prepare_study(spec)
    assert {s.name for s in list_studies(one.cache, url)} == {one.name, two.name}
    delete_study(one.name, one.cache, url)
    assert [s.name for s in list_studies(one.cache, url)] == [two.name]
    assert trials_of(two.name, two.cache, url).empty
    for ask in (delete_study, trials_of):
        with pytest.raises(StorageError, match="no study ampflow-"):
            ask(one.name, one.cache, url)


# A study that is being worked on is not pulled from under its workers.
def test_delete_refuses_while_somebody_works(make_spec: Any) -> None:
    spec = make_spec()
    prepare_study(spec)
    lease = Leases(claims_folder(spec.cache, spec.name), "worker 3").claim("0")
    assert lease is not None
    with pytest.raises(StorageError, match="worker 3"):
        delete_study(spec.name, spec.cache)
    lease.release()
    delete_study(spec.name, spec.cache)
    assert list_studies(spec.cache) == []


# Who works on what is known without opening a study, and those that are gone are left out.
def test_held_trials(make_spec: Any) -> None:
    one, two = make_spec(), make_spec(seed=2)
    assert held_trials(one.cache) == []
    for spec, keys in ((one, ["10", "9"]), (two, ["0"])):
        for key in keys:
            Leases(claims_folder(spec.cache, spec.name), f"w{key}").claim(key)
    lease = Leases(claims_folder(two.cache, two.name), "x").claim("1")
    assert lease is not None
    lease.release()
    held = [(trial.study, trial.number, trial.holder.worker) for trial in held_trials(one.cache)]
    expected = [(one.name, 9, "w9"), (one.name, 10, "w10"), (two.name, 0, "w0")]
    assert held == sorted(expected)


# Hyperband's brackets, and with them what a sampler sees, are there from the first trial on.
def test_hyperband_brackets_are_equal_in_every_process(make_spec: Any) -> None:
    spec = make_spec(pruner="hyperband", epochs=81)
    first, second = open_study(spec), open_study(spec)
    assert isinstance(first.pruner, optuna.pruners.HyperbandPruner)
    trials = [optuna.trial.create_trial(state=TrialState.RUNNING) for _ in range(30)]
    for number, trial in enumerate(trials):
        trial.number = number
    brackets = [first.pruner._get_bracket_id(first, trial) for trial in trials]
    assert brackets == [second.pruner._get_bracket_id(second, trial) for trial in trials]
    assert set(brackets) == {0, 1, 2, 3}


def _complete(value: float) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        value=value,
        params={"lr": value},
        distributions={"lr": optuna.distributions.FloatDistribution(0.0, 1.0)},
    )


def test_space_of_choices_only(make_spec: Any) -> None:
    assert prepare_study(make_spec(space={"gamma": Choices(choices=[0.5])})).trials == []
