"""Samplers whose proposals are known beforehand: a grid, and Sobol's sequence.

Which point a trial has follows from its number, so that no two workers can take the same.
(Optuna's own count in the study what was proposed, which two may read at once.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from ampflow.tuning.cube import from_cube

__all__ = ["Grid", "Sobol", "Whole"]


class Whole(BaseSampler):
    """A sampler of a whole space at once; `sample_relative` is left to be written.

    Parameters
    ----------
    space
        Without options that have a single value: those are not sampled.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._space = dict(space)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space, known from the first trial on."""
        return self._space

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuse: there is nothing outside the space."""
        raise KeyError(param_name)


class Sobol(Whole):
    """Point n of a scrambled Sobol sequence for trial n.

    Parameters
    ----------
    seed
        Of the study, as the sequence is one for all its trials.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(space)
        self._seed = seed

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the trial's point."""
        if not search_space:
            return {}
        from scipy.stats import qmc  # a second to import, for those who want it

        random = np.random.default_rng(self._seed)
        sequence = qmc.Sobol(len(search_space), scramble=True, seed=random)
        if trial.number:
            sequence.fast_forward(trial.number)
        return from_cube(sequence.random(1)[0], search_space)


class Grid(Whole):
    """All points of a grid, one a trial, in an order shuffled by `seed`.

    Shuffled, so that a budget below the size of the grid sees all of its regions.

    Parameters
    ----------
    values
        Of each option.
    """

    def __init__(
        self,
        values: Mapping[str, Sequence[Any]],
        space: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        super().__init__(space)
        self._values, self._seed = values, seed

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the trial's point."""
        shape = [len(values) for values in self._values.values()]
        points = math.prod(shape)
        order = np.random.default_rng(self._seed).permutation(points)
        where = np.unravel_index(order[trial.number % points], shape)
        pairs = zip(self._values.items(), where, strict=True)
        point = {name: values[int(index)] for (name, values), index in pairs}
        return {name: point[name] for name in search_space}
