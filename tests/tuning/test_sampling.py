from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ampflow.errors import OptionError
from ampflow.experiment import Choices, Range, Training, Tuning
from ampflow.tuning.sampling import budget, make_pruner, make_sampler
from ampflow.tuning.space import suggest
from ampflow.tuning.storage import open_storage

NUMBERS = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "num_layers": Range(low=2, high=6),
    "batch_size": Choices(choices=[8, 16, 32, 64]),
}
STEPS = {
    "lr": Choices(choices=[1e-3, 1e-2]),
    "num_layers": Range(low=2, high=4),
    "gamma": Range(low=0.5, high=1, step=0.25),
}


def search(tuning: Tuning, trials: int, seed: int = 3, path: Path | None = None) -> list[dict]:
    """Run a study by hand, with a new study object for each trial as after a restart."""
    storage = optuna.storages.InMemoryStorage() if path is None else open_storage("", path)
    optuna.create_study(study_name="s", storage=storage)
    for number in range(trials):
        study = optuna.load_study(
            study_name="s", storage=storage, sampler=make_sampler(tuning, seed, number)
        )
        trial = study.ask()
        options = suggest(trial, tuning.space, Training())
        study.tell(trial, (options.num_layers - 3) ** 2 + abs(options.lr - 0.01))
    return [trial.params for trial in optuna.load_study(study_name="s", storage=storage).trials]


# Each sampler searches, within the space, the same with the same seed and else with another.
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "qmc"])
def test_sampler_is_repeatable(sampler: str) -> None:
    tuning = Tuning(sampler=sampler, space=NUMBERS)
    found = search(tuning, 11)
    assert found == search(tuning, 11)
    assert found != search(tuning, 11, seed=4)
    assert len({json.dumps(params) for params in found}) > 7
    assert all(2 <= params["num_layers"] <= 6 for params in found)


# Samplers that learn propose better points after a while than random ones do.
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_sampler_learns(sampler: str) -> None:
    found = search(Tuning(sampler=sampler, space=NUMBERS), 60)
    good = [params["num_layers"] == 3 for params in found]
    assert sum(good[40:]) > 2 * 20 / 5


# A grid has each of its points once, and a budget beyond it ends with it.
def test_grid_has_each_point_once() -> None:
    tuning = Tuning(sampler="grid", space=STEPS, trials=1000)
    assert budget(tuning) == 18
    found = search(tuning, 18)
    assert len({json.dumps(params) for params in found}) == 18


def test_grid_too_large_to_list() -> None:
    space = {"num_nodes": Range(low=1, high=4096), "batch_size": Range(low=1, high=4096)}
    with pytest.raises(OptionError, match="16,777,216 points"):
        budget(Tuning(sampler="grid", space=space))


# Points of a Sobol sequence spread evenly: 8 of them halve every axis.
def test_qmc_is_balanced() -> None:
    space = {"gamma": Range(low=0.5, high=1.0), "dropout_rate": Range(low=0, high=0.5)}
    found = search(Tuning(sampler="qmc", space=space), 8)
    assert sum(params["gamma"] < 0.75 for params in found) == 4
    assert sum(params["dropout_rate"] < 0.25 for params in found) == 4


def test_cmaes_refuses_words() -> None:
    space = NUMBERS | {"activation": Choices(choices=["tanh", "silu"])}
    with pytest.raises(OptionError, match=r"activation.*without an order"):
        make_sampler(Tuning(sampler="cmaes", space=space), 0, 0)


# No pickle in any study: Optuna's own CMA-ES would keep one, and loading it runs what it says.
def test_cmaes_keeps_no_pickle(tmp_path: Path) -> None:
    search(Tuning(sampler="cmaes", space=NUMBERS), 20, path=tmp_path / "s.log")
    assert all(len(line) < 500 for line in (tmp_path / "s.log").read_text().splitlines())


# An option with a single value is never sampled, and no sampler stumbles over it.
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "qmc", "grid"])
def test_single_value(sampler: str) -> None:
    space = {"num_layers": Range(low=3, high=3), "gamma": Choices(choices=[0.5, 0.6])}
    found = search(Tuning(sampler=sampler, space=space), 2)
    assert [params["num_layers"] for params in found] == [3, 3]


# A trial that died between two of its hyperparameters gets the others as it would have.
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_rest_of_a_half_suggested_trial(sampler: str) -> None:
    tuning = Tuning(sampler=sampler, space=NUMBERS)
    whole = search(tuning, 1)[0]
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=make_sampler(tuning, 3, 0))
    trial = study.ask()
    trial.suggest_categorical("batch_size", [8, 16, 32, 64])
    study.sampler = make_sampler(tuning, 3, 0)
    suggest(optuna.Trial(study, trial._trial_id), tuning.space, Training())
    assert study.trials[0].params == whole


# A trial that is far behind is dropped; one that leads is not.
@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_pruner_drops_the_hopeless(pruner: str) -> None:
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=make_pruner(Tuning(pruner=pruner), 81),
    )
    for level in range(1, 31):
        trial = study.ask()
        for epoch in range(1, 82):
            trial.report(level, epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, level)
    states = [trial.state for trial in study.trials]
    assert states[0] == TrialState.COMPLETE
    assert states.count(TrialState.PRUNED) >= 15


def test_no_pruner_prunes_nothing() -> None:
    study = optuna.create_study(pruner=make_pruner(Tuning(pruner="none"), 10))
    for level in range(20):
        trial = study.ask()
        trial.report(level, 9)
        assert not trial.should_prune()
        study.tell(trial, level)
