from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ampflow.errors import OptionError
from ampflow.experiment import Choices, Fingerprints, Range, Spaced, Training, Tuning
from ampflow.tuning.cube import from_cube, to_cube
from ampflow.tuning.space import (
    distributions,
    fill,
    fill_fingerprints,
    grid_values,
    highest,
    largest_fingerprints,
    lowest_fingerprints,
    suggest,
)


def test_options_that_are_whole_numbers_stay_whole() -> None:
    space = {"num_nodes": Range(low=8, high=64, log=True), "lr": Range(low=1e-4, high=1e-1)}
    found = distributions(space)
    assert found["num_nodes"] == IntDistribution(8, 64, log=True)
    assert found["lr"] == FloatDistribution(1e-4, 1e-1)


# A range that its step does not divide ends at the last step inside it.
def test_step_that_does_not_divide_the_range() -> None:
    space = {"num_layers": Range(low=2, high=7, step=2), "gamma": Range(low=0.5, high=1, step=0.2)}
    found = distributions(space)
    assert found["num_layers"] == IntDistribution(2, 6, step=2)
    assert grid_values(space)["gamma"] == pytest.approx([0.5, 0.7, 0.9])


def test_fractional_step_of_a_whole_number_is_refused() -> None:
    with pytest.raises(OptionError, match=r"num_layers.*whole"):
        distributions({"num_layers": Range(low=2, high=6, step=0.5)})


# A grid over a range without a step has no end: say which option, and what to write instead.
def test_grid_needs_steps() -> None:
    with pytest.raises(OptionError, match=r"space\.lr.*without a step"):
        grid_values({"lr": Range(low=1e-4, high=1e-1, log=True)})


def test_suggested_options_replace_the_searched_ones_only() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    training = Training(epochs=7, num_layers=9)
    space = Tuning().space
    trial = study.ask()
    options = suggest(trial, space, training)
    assert options.epochs == 7
    assert 2 <= options.num_layers <= 6
    assert trial.params.keys() == space.keys()
    assert fill(training, trial.params) == options


# The options of a trial that was begun before are those it has, whatever the sampler says now.
def test_suggest_keeps_what_a_trial_already_has() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    first = study.ask()
    first.suggest_float("gamma", 0.5, 1.0)
    again = optuna.Trial(study, first._trial_id)
    options = suggest(again, Tuning().space, Training())
    assert options.gamma == first.params["gamma"]


def test_highest_value_of_an_option() -> None:
    assert highest("epochs", {}, Training(epochs=5)) == 5
    assert highest("epochs", {"epochs": Range(low=1, high=9)}, Training()) == 9
    assert highest("epochs", {"epochs": Choices(choices=[3, 8, 4])}, Training()) == 8


SPACE = {
    "a": FloatDistribution(1e-4, 1e-1, log=True),
    "b": FloatDistribution(-1.0, 3.0),
    "c": FloatDistribution(0.5, 1.0, step=0.1),
    "d": IntDistribution(2, 6),
    "e": IntDistribution(8, 64, log=True),
    "f": IntDistribution(10, 50, step=20),
    "g": CategoricalDistribution([0.0, 0.05, "x"]),
}


# Every point of the cube is a set of hyperparameters inside the space, and going to the cube
# and back does not change it.
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_unit_cube_and_back(point: list[float]) -> None:
    params = from_cube(np.array(point), SPACE)
    for name, value in params.items():
        assert SPACE[name]._contains(SPACE[name].to_internal_repr(value))
    shares = to_cube(params, SPACE)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert from_cube(shares, SPACE) == pytest.approx(params)


# Equal shares of the cube: the first and last values are as likely as those between.
def test_ends_of_a_discrete_option_have_their_full_share() -> None:
    shares = np.linspace(0, 1, 1000, endpoint=False)
    values = [from_cube(np.array([s]), {"d": SPACE["d"]})["d"] for s in shares]
    assert np.bincount(values, minlength=7)[2:].tolist() == [200] * 5


# Options of fingerprints have the types that they have there: orders and numbers are whole.
def test_fingerprints_in_the_space() -> None:
    space = {
        "fingerprints.orders": Range(low=0, high=3),
        "fingerprints.cutoff": Range(low=4, high=6),
        "fingerprints.sigmas.number": Range(low=2, high=5),
        "fingerprints.square": Choices(choices=[False, True]),
    }
    found = distributions(space)
    assert found["fingerprints.orders"] == IntDistribution(0, 3)
    assert found["fingerprints.sigmas.number"] == IntDistribution(2, 5)
    assert found["fingerprints.cutoff"] == FloatDistribution(4, 6)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    assert suggest(trial, space, Training(epochs=7)) == Training(epochs=7)
    chosen = fill_fingerprints(Fingerprints(), trial.params)
    assert chosen.orders == trial.params["fingerprints.orders"]
    assert chosen.square == trial.params["fingerprints.square"]


# What is not searched stays: the ends of a list of sigmas, sigmas of orders that there still are.
def test_fingerprints_that_are_not_searched_stay() -> None:
    given = Fingerprints(
        sigmas=[0.4, 1.0, 2.0], orders=3, cutoff=7.0, order_sigmas={1: [2], 3: [1]}
    )
    assert fill_fingerprints(given, {"lr": 1.0}) == given
    chosen = fill_fingerprints(given, {"fingerprints.sigmas.number": 4, "fingerprints.orders": 2})
    assert chosen == Fingerprints(
        sigmas=Spaced(number=4, smallest=0.4, largest=2.0),
        orders=2,
        cutoff=7.0,
        order_sigmas={1: [2]},
    )


# The corners of a space, which name a study and say how large its descriptors can be.
def test_corners_of_the_fingerprints() -> None:
    space = {
        "fingerprints.orders": Range(low=1, high=3),
        "fingerprints.normalize": Choices(choices=["order", "group"]),
        "fingerprints.cutoff": Choices(choices=[4.0, 6.0]),
    }
    lowest = lowest_fingerprints(Fingerprints(cutoff=9.0), space)
    assert (lowest.orders, lowest.normalize, lowest.cutoff) == (1, "order", 4.0)
    largest = largest_fingerprints(Fingerprints(), space)
    assert [(one.orders, one.normalize) for one in largest] == [(3, "order"), (3, "group")]
