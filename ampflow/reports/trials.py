"""What a report takes from the trials of a study (lower values are better)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict

from ampflow.tuning.results import end_of

__all__ = [
    "TrialCounts",
    "best_trial",
    "complete_trials",
    "count_trials",
    "parameter_names",
    "trials_frame",
    "varying_parameters",
]


class TrialCounts(BaseModel):
    """How many trials ended how; `unfinished` are running or waiting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    unfinished: int = 0


_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "unfinished",
}


def count_trials(trials: Sequence[FrozenTrial]) -> TrialCounts:
    """Count the trials by how they ended."""
    return TrialCounts(**Counter(_NAMES[trial.state] for trial in trials))


def complete_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that ended with a finite value, by number."""
    done = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.value is not None
        and math.isfinite(trial.value)
    ]
    return sorted(done, key=lambda trial: trial.number)


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial with the lowest value, the first of equals; None if none is."""
    return min(complete_trials(trials), key=lambda trial: trial.value or 0.0, default=None)


def parameter_names(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of all searched options, in the order in which they first occur."""
    return list(dict.fromkeys(name for trial in trials for name in trial.params))


def varying_parameters(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the searched options that have more than one value among `trials`."""
    return [
        name
        for name in parameter_names(trials)
        if len({trial.params[name] for trial in trials if name in trial.params}) > 1
    ]


def trials_frame(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Make the table of trials.csv: one row a trial, by number.

    Columns: number, state, validation_mae_ev (of complete trials; of others the last value
    they reported), last_epoch (the last step that was reported), best_epoch, seconds (of
    training, or else from start to end), one a searched option, and note (why a trial failed,
    or which one it shares its training with).
    """
    names = parameter_names(trials)
    rows = [
        [
            trial.number,
            _NAMES[trial.state],
            _value(trial),
            trial.last_step,
            end_of(trial).get("best_epoch"),
            _seconds(trial),
            *(trial.params.get(name) for name in names),
            _note(trial),
        ]
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    head = ["number", "state", "validation_mae_ev", "last_epoch", "best_epoch", "seconds"]
    frame = pd.DataFrame(rows, columns=[*head, *names, "note"])
    return frame.astype({"last_epoch": "Int64", "best_epoch": "Int64"})


def _value(trial: FrozenTrial) -> float | None:
    if trial.value is None and trial.last_step is not None:
        return trial.intermediate_values[trial.last_step]
    return trial.value


def _seconds(trial: FrozenTrial) -> float | None:
    trained = end_of(trial).get("seconds")
    if trained is not None:
        return float(trained)
    return trial.duration.total_seconds() if trial.duration else None


def _note(trial: FrozenTrial) -> str:
    twin = end_of(trial).get("reused_from")
    reason = str(end_of(trial).get("reason") or "")
    return reason if twin is None else f"same training as trial {twin}"
