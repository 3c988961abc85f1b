"""What results.json holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd
from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict

from ampflow.experiment import Experiment
from ampflow.reports.accuracy import PartErrors, error_figures
from ampflow.reports.trials import TrialCounts, best_trial, count_trials

__all__ = ["Results", "Skipped", "make_results"]

_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*@")


class Skipped(BaseModel):
    """A structure that was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    index: int
    reason: str


class Results(BaseModel):
    """Everything about a run that a program may want to read; energies in eV.

    Figures of the winner are None where no trial was completed, and those of a part that has
    no structures are None as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    structures: int
    atoms: int
    features: int
    splits: dict[str, int]
    trials: TrialCounts
    best_trial: int | None
    best_params: dict[str, bool | int | float | str]
    validation_mae_ev: float | None
    test_mae_ev: float | None
    test_mae_mev_per_atom: float | None
    baseline_validation_mae_ev: float | None
    baseline_test_mae_ev: float | None
    baseline_test_mae_mev_per_atom: float | None
    winner_beats_baseline: bool | None
    errors: dict[str, PartErrors]
    skipped: list[Skipped]
    notes: list[str] = []
    seed: int
    seconds: dict[str, float]
    versions: dict[str, str]
    digests: dict[str, str]
    experiment: Experiment
    model: str | None


def make_results(
    predictions: pd.DataFrame,
    trials: Sequence[FrozenTrial],
    *,
    study: str,
    experiment: Experiment,
    features: int,
    model: str | None,
    skipped: Sequence[Skipped] = (),
    notes: Sequence[str] = (),
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
    digests: Mapping[str, str],
) -> Results:
    """Gather the results of a run; whatever can be counted or computed is, from the tables.

    Parameters
    ----------
    predictions
        One row a structure, see `ampflow.reports.accuracy.COLUMNS`.
    trials
        Of the study, in any order and state; empty if nothing was searched.
    study
        Its name.
    experiment
        As it was run.
    features
        Fingerprint components an atom.
    model
        Folder of the winner, as a user should load it; None without a winner.
    skipped
        Structures that were left out.
    notes
        What else a reader should know, a paragraph each.
    seconds
        By step.
    versions
        By package.
    digests
        Names of the content-addressed artifacts (structures, store, split, ...).

    Raises
    ------
    ValueError
        If `predictions` is not as `error_figures` wants it, or does not fit `model`.
    """
    errors = error_figures(predictions)
    if any((figures.mae_ev is None) != (model is None) for figures in errors.values()):
        raise ValueError("a winner has predictions and a model, or neither")
    validation, test = errors.get("validation"), errors.get("test")
    best = best_trial(trials)
    return Results(
        study=study,
        structures=len(predictions),
        atoms=int(predictions["atoms"].sum()),
        features=features,
        splits={part: figures.structures for part, figures in errors.items()},
        trials=count_trials(trials),
        best_trial=best.number if best else None,
        best_params=best.params if best else {},
        validation_mae_ev=validation.mae_ev if validation else None,
        test_mae_ev=test.mae_ev if test else None,
        test_mae_mev_per_atom=test.mae_mev_per_atom if test else None,
        baseline_validation_mae_ev=validation.baseline_mae_ev if validation else None,
        baseline_test_mae_ev=test.baseline_mae_ev if test else None,
        baseline_test_mae_mev_per_atom=test.baseline_mae_mev_per_atom if test else None,
        winner_beats_baseline=test.winner_is_better if test else None,
        errors=errors,
        skipped=list(skipped),
        notes=list(notes),
        seed=experiment.seed,
        seconds=dict(seconds),
        versions=dict(versions),
        digests=dict(digests),
        experiment=experiment,
        model=model,
    )
