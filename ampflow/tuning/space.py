"""The search space: from the experiment file to Optuna, and back to training options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ampflow.errors import OptionError
from ampflow.experiment import (
    Choices,
    Distribution,
    Fingerprints,
    Range,
    Spaced,
    Training,
    option_type,
)

__all__ = [
    "distributions",
    "fill",
    "fill_fingerprints",
    "grid_values",
    "highest",
    "largest_fingerprints",
    "lowest_fingerprints",
    "suggest",
]

_PREFIX = "fingerprints."


def distributions(space: Mapping[str, Distribution]) -> dict[str, BaseDistribution]:
    """Return the space as Optuna has it, by name in alphabetical order.

    Raises
    ------
    OptionError
        If the step of a range of whole numbers is not whole.
    """
    return {name: _distribution(name, space[name]) for name in sorted(space)}


def _distribution(name: str, item: Distribution) -> BaseDistribution:
    if isinstance(item, Choices):
        return CategoricalDistribution(item.choices)
    if option_type(name) is int:
        step = 1 if item.step is None else item.step
        if step != int(step):
            raise OptionError(
                f"tuning.space.{name}: step = {step:g}, but it is counted in whole numbers",
                "step = 1",
            )
        low, high = int(item.low), int(item.high)
        top = low + (high - low) // int(step) * int(step)
        return IntDistribution(low, top, log=item.log, step=int(step))
    if item.step is None:
        return FloatDistribution(item.low, item.high, log=item.log)
    return FloatDistribution(item.low, item.low + (_points(item) - 1) * item.step, step=item.step)


def _points(item: Range) -> int:
    assert item.step is not None
    return math.floor((item.high - item.low) / item.step + 1e-9) + 1


def suggest(trial: optuna.Trial, space: Mapping[str, Distribution], training: Training) -> Training:
    """Return `training` with the searched options as `trial` has them, or is given them now."""
    values: dict[str, Any] = {}
    for name, item in distributions(space).items():
        match item:
            case CategoricalDistribution():
                values[name] = trial.suggest_categorical(name, item.choices)
            case IntDistribution():
                values[name] = trial.suggest_int(
                    name, item.low, item.high, step=item.step, log=item.log
                )
            case FloatDistribution():
                values[name] = trial.suggest_float(
                    name, item.low, item.high, step=item.step, log=item.log
                )
    return fill(training, values)


def fill(training: Training, values: Mapping[str, Any]) -> Training:
    """Return `training` with some options replaced: how a trial's parameters become options."""
    own = {name: value for name, value in values.items() if not name.startswith(_PREFIX)}
    return Training.model_validate(training.model_dump() | own)


def fill_fingerprints(fingerprints: Fingerprints, values: Mapping[str, Any]) -> Fingerprints:
    """Return `fingerprints` with some options replaced, from the same parameters of a trial.

    Of sigmas that are a list, what is not searched is its number, its smallest and its largest.
    Sigmas of orders that a trial does not have are left out.
    """
    own = {
        name.removeprefix(_PREFIX): value
        for name, value in values.items()
        if name.startswith(_PREFIX)
    }
    if not own:
        return fingerprints
    options = fingerprints.model_dump()
    spaced = {
        name.removeprefix("sigmas."): own.pop(name) for name in list(own) if "sigmas." in name
    }
    if spaced:
        given = fingerprints.sigmas
        given = given if isinstance(given, Spaced) else Spaced.like(given)
        options["sigmas"] = given.model_dump() | spaced
    if "orders" in own:
        few = fingerprints.order_sigmas.items()
        options["order_sigmas"] = {order: item for order, item in few if order <= own["orders"]}
    return Fingerprints.model_validate(options | own)


def lowest_fingerprints(
    fingerprints: Fingerprints, space: Mapping[str, Distribution]
) -> Fingerprints:
    """Return the fingerprints of the space's first corner: what is searched is at its lowest."""
    values = {
        name: item.low if isinstance(item, Range) else item.choices[0]
        for name, item in space.items()
    }
    return fill_fingerprints(fingerprints, values)


_SIZES = ("fingerprints.normalize", "fingerprints.orders", "fingerprints.sigmas.number")


def largest_fingerprints(
    fingerprints: Fingerprints, space: Mapping[str, Distribution]
) -> list[Fingerprints]:
    """Return the fingerprints of the space among which are those with the most features."""
    searched = [name for name in _SIZES if name in space]
    ends = [
        [item.high] if isinstance(item, Range) else item.choices
        for item in (space[name] for name in searched)
    ]
    lowest = lowest_fingerprints(fingerprints, space)
    return [
        fill_fingerprints(lowest, dict(zip(searched, values, strict=True)))
        for values in product(*ends)
    ]


def highest(name: str, space: Mapping[str, Distribution], training: Training) -> Any:
    """Return the highest value that option `name` has in any trial."""
    item = space.get(name)
    if item is None:
        return getattr(training, name)
    return item.high if isinstance(item, Range) else max(item.choices)


def grid_values(space: Mapping[str, Distribution]) -> dict[str, list[Any]]:
    """Return the values of each option on the grid, by name in alphabetical order.

    Raises
    ------
    OptionError
        If a range has infinitely many values.
    """
    return {name: _values(name, item) for name, item in distributions(space).items()}


def _values(name: str, item: BaseDistribution) -> list[Any]:
    if isinstance(item, CategoricalDistribution):
        return list(item.choices)
    if isinstance(item, IntDistribution):
        return list(range(item.low, item.high + 1, item.step))
    assert isinstance(item, FloatDistribution)
    if item.single():
        return [item.low]
    if item.step is None:
        raise OptionError(
            f'tuning.space.{name}: a range without a step, and tuning.sampler = "grid"',
            "give it a step, or { choices = [...] }",
        )
    count = round((item.high - item.low) / item.step) + 1
    return [item.low + index * item.step for index in range(count)]
