"""Samplers and pruners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from ampflow.errors import OptionError
from ampflow.experiment import Tuning
from ampflow.tuning.cmaes import CMAES
from ampflow.tuning.points import Grid, Sobol, Whole
from ampflow.tuning.space import distributions, grid_values

__all__ = ["LOOKING", "budget", "make_pruner", "make_sampler"]

LOOKING = ("tpe", "gp", "cmaes")
"""Samplers that look at other trials."""

_LARGEST_GRID = 1_000_000


def budget(tuning: Tuning) -> int:
    """Return how many trials the study is to have: a grid ends where all its points are done.

    Raises
    ------
    OptionError
        If nothing is searched, or the sampler is the grid and the space has none, or one too
        large to enumerate.
    """
    if not tuning.space:
        raise OptionError("tuning.space is empty: nothing to search", "ampflow train")
    if tuning.sampler != "grid":
        return tuning.trials
    points = math.prod(len(values) for values in grid_values(tuning.space).values())
    if points > _LARGEST_GRID:
        raise OptionError(
            f"tuning.space: a grid of {points:,} points", "larger steps, or another sampler"
        )
    return min(tuning.trials, points)


def make_sampler(tuning: Tuning, seed: int, number: int) -> BaseSampler:
    """Make the sampler of one trial.

    A new one a trial, seeded with the study's seed and the trial's number: what it proposes
    depends on these and on the trials in the study, and not on which process proposes it or
    what that process did before.

    Parameters
    ----------
    seed
        Of the study.
    number
        Of the trial.

    Raises
    ------
    OptionError
        If the sampler cannot search this space.
    """
    space = distributions(tuning.space)
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    searched = {name: item for name, item in space.items() if not item.single()}
    match tuning.sampler:
        case "tpe":
            # Constant liar: trials still running count as bad, so that nobody proposes them again.
            tpe = TPESampler(seed=own, multivariate=True, constant_liar=True)
            return _AtOnce(tpe, searched)
        case "random":
            return _AtOnce(RandomSampler(seed=own), searched)
        case "gp":
            return _AtOnce(GPSampler(seed=own, warn_independent_sampling=False), searched)
        case "cmaes":
            _refuse_words(space)
            return CMAES(searched, own)
        case "qmc":
            return Sobol(searched, seed)
        case "grid":
            return Grid(grid_values(tuning.space), searched, seed)


def _refuse_words(space: Mapping[str, BaseDistribution]) -> None:
    for name, item in space.items():
        choices = item.choices if isinstance(item, CategoricalDistribution) else ()
        if any(isinstance(value, str | bool) for value in choices):
            raise OptionError(
                f'tuning.space.{name}: choices without an order, and tuning.sampler = "cmaes"',
                "fix it under [training], or use another sampler",
            )


def make_pruner(tuning: Tuning, epochs: int) -> BasePruner:
    """Make the pruner, for trials of `epochs` epochs; its steps are numbers of epochs."""
    first = max(1, epochs // 27)  # nothing can be told before; 27: three rounds of dropping 2 of 3
    match tuning.pruner:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))
        case "halving":
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
        case "hyperband":
            return HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=3)


class _AtOnce(Whole):
    """Draws all hyperparameters of a trial in one go.

    One after another, a trial that died between two of them would go on with other random
    numbers than it would have had.
    """

    def __init__(self, base: BaseSampler, space: Mapping[str, BaseDistribution]) -> None:
        super().__init__(space)
        self._base = base

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        known = self._base.infer_relative_search_space(study, trial)
        drawn = self._base.sample_relative(study, trial, known)
        rest = {name: item for name, item in search_space.items() if name not in drawn}
        return drawn | {
            name: self._base.sample_independent(study, trial, name, item)
            for name, item in rest.items()
        }
