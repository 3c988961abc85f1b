"""Proposing again what was proposed, from what each trial's sampler saw.

Before a trial's sampler is asked, all trials are read once, the sampler sees just these, and the
trial keeps which they were: how many existed, and how far those were that still ran. All else
follows from the trials themselves, as ended ones do not change.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ampflow.errors import StorageError
from ampflow.experiment import Training, Tuning
from ampflow.tuning.catalogue import load_named
from ampflow.tuning.sampling import make_pruner, make_sampler
from ampflow.tuning.space import highest, suggest

__all__ = ["SEEN", "Replay", "as_seen", "frozen", "replay_study", "what_is_seen"]

SEEN = "seen"
"""Name of the user attribute that says what a trial's sampler saw."""

_UNASKED = -1  # a running trial without hyperparameters, and without notes of its sampler


@dataclass(frozen=True)
class Replay:
    """How proposing again went.

    Parameters
    ----------
    agree
        Numbers of the trials that were proposed the same again.
    differ
        What was recorded and what is proposed now, of the others, by number.
    unknown
        Numbers of trials that do not say what their sampler saw.
    """

    agree: list[int]
    differ: dict[int, tuple[dict[str, Any], dict[str, Any]]]
    unknown: list[int]


def what_is_seen(trials: Sequence[FrozenTrial], own: int) -> list[Any]:
    """Describe `trials`, in a few numbers, to who proposes hyperparameters for trial `own`."""
    running = {
        str(trial.number): _progress(trial)
        for trial in trials
        if trial.number != own and not trial.state.is_finished()
    }
    return [len(trials), running]


def _progress(trial: FrozenTrial) -> int:
    """Return how many hyperparameters a running trial has: n, or -1 - n without notes.

    A database reads the two one after the other, so that either may be there without the other.
    """
    return len(trial.params) if _notes(trial) else -1 - len(trial.params)


def _notes(trial: FrozenTrial) -> dict[str, Any]:
    """Return what the trial's sampler noted; pruners note their rungs."""
    return {key: note for key, note in trial.system_attrs.items() if "rung" not in key}


def as_seen(trials: Sequence[FrozenTrial], seen: list[Any], own: int) -> list[FrozenTrial]:
    """Return `trials` as they were when they were described as `seen`."""
    count, running = seen
    then = {int(number): params for number, params in running.items()} | {own: _UNASKED}
    return [
        _unfinished(trial, then[trial.number]) if trial.number in then else trial
        for trial in trials[:count]
    ]


def _unfinished(trial: FrozenTrial, progress: int) -> FrozenTrial:
    """Return a trial as it was at that `progress`; hyperparameters come by name."""
    earlier = copy.copy(trial)
    earlier.state, earlier.values = TrialState.RUNNING, None
    earlier.datetime_complete = None
    names = sorted(trial.params)[: progress if progress >= 0 else -1 - progress]
    earlier.params = {name: trial.params[name] for name in names}
    earlier._distributions = {name: trial.distributions[name] for name in names}
    earlier.intermediate_values, earlier.user_attrs = {}, {}
    earlier.system_attrs = _notes(trial) if progress >= 0 else {}
    return earlier


class _Frozen:
    """A storage whose list of trials stands still; all else is the storage's own."""

    def __init__(self, storage: BaseStorage, trials: list[FrozenTrial]) -> None:
        self._storage, self._trials = storage, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials as they stood."""
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class _Rehearsal(_Frozen):
    """The same for a trial that is not to be changed."""

    def __init__(self, storage: BaseStorage, trials: list[FrozenTrial], own: FrozenTrial) -> None:
        super().__init__(storage, trials)
        self._own = own

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return the trial that is rehearsed."""
        return self._own

    def set_trial_param(self, *_: Any) -> None:
        """Write nothing."""

    def set_trial_system_attr(self, *_: Any) -> None:
        """Write nothing."""


def frozen(study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
    """Return a study that sees `trials`, whatever others do meanwhile, and writes to its own."""
    return _study_on(_Frozen(study._storage, trials), study)


def _study_on(storage: _Frozen, study: optuna.Study) -> optuna.Study:
    standing = copy.copy(study)  # opening it again would ask the database again
    standing._storage = cast("BaseStorage", storage)
    return standing


def replay_study(name: str, cache: Path, storage: str = "") -> Replay:
    """Propose the hyperparameters of all trials of a study again, and compare.

    Raises
    ------
    StorageError
        If there is none of this name, it cannot be read, or does not say what it searches.
    """
    study = load_named(name, cache, storage)
    described = study.user_attrs.get("described", {})
    if "seed" not in described:
        raise StorageError(f"study {name} does not say how it was made", "run it once more")
    tuning = Tuning(**{key: described[key] for key in ("sampler", "pruner", "space")})
    training = Training(**described["training"])
    study.pruner = make_pruner(tuning, int(highest("epochs", tuning.space, training)))
    study.pruner.prune(study, optuna.trial.create_trial(state=TrialState.RUNNING))
    replay = Replay([], {}, [])
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if not trial.params:
            continue
        if SEEN not in trial.user_attrs:
            replay.unknown.append(trial.number)
            continue
        study.sampler = make_sampler(tuning, described["seed"], trial.number)
        again = _propose(study, trials, trial, tuning, training)
        if again == trial.params:
            replay.agree.append(trial.number)
        else:
            replay.differ[trial.number] = trial.params, again
    return replay


def _propose(
    study: optuna.Study,
    trials: list[FrozenTrial],
    trial: FrozenTrial,
    tuning: Tuning,
    training: Training,
) -> dict[str, Any]:
    seen = as_seen(trials, trial.user_attrs[SEEN], trial.number)
    own = _unfinished(trial, _UNASKED)
    rehearsed = optuna.Trial(
        _study_on(_Rehearsal(study._storage, seen, own), study), trial._trial_id
    )
    suggest(rehearsed, tuning.space, training)
    return {name: rehearsed.params[name] for name in trial.params}
