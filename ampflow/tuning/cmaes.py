"""Covariance matrix adaptation (CMA-ES), its state rebuilt from the trials of the study.

Optuna's own sampler keeps that state as a pickle in the study, and loading someone's study must
run no code of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from ampflow.tuning.cube import from_cube, to_cube
from ampflow.tuning.points import Whole
from ampflow.tuning.results import end_of

if TYPE_CHECKING:
    from cmaes import CMA  # type: ignore[import-untyped]

__all__ = ["CMAES"]

_GENERATION = "ampflow:generation"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class CMAES(Whole):
    """CMA-ES (Hansen, arXiv:1604.00772) in the unit cube, as the `cmaes` package has it.

    A trial belongs to the generation it was drawn from. A generation is closed by as many
    finished trials as the population counts, those that finished first; pruned trials take
    part with the score they had, which is enough to rank them behind.

    Parameters
    ----------
    seed
        Of this trial.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(space)
        self._seed = seed

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the youngest generation."""
        if not search_space:
            return {}
        from cmaes import CMA  # imports scipy.stats: a second, for those who want it

        ends = np.tile([0.0, 1.0], (len(search_space), 1))
        state = CMA(np.full(len(search_space), 0.5), sigma=1 / 6, bounds=ends)
        finished = study.get_trials(deepcopy=False, states=_FINISHED)
        while solutions := self._generation(state, finished):
            state.tell(solutions)
        state.reseed_rng(self._seed)
        study._storage.set_trial_system_attr(trial._trial_id, _GENERATION, state.generation)
        return from_cube(state.ask(), search_space)

    def _generation(
        self, state: CMA, finished: list[FrozenTrial]
    ) -> list[tuple[NDArray[np.float64], float]]:
        """Return the trials that close the generation; none if it is still open."""
        its = [
            (_ended(trial), trial.number, trial)
            for trial in finished
            if trial.system_attrs.get(_GENERATION) == state.generation and trial.value is not None
        ]
        if len(its) < state.population_size:
            return []
        first = [trial for _, _, trial in sorted(its)[: state.population_size]]
        return [(to_cube(trial.params, self._space), trial.values[0]) for trial in first]


def _ended(trial: FrozenTrial) -> float:
    """Say when a trial ended, in seconds since 1970: MySQL keeps whole seconds only."""
    assert trial.datetime_complete is not None
    at: float = end_of(trial).get("at") or trial.datetime_complete.timestamp()
    return at
