"""Figures of the search: history, learning curves, importances.

Each is a pure function of the trials that returns a figure, or a sentence that says why there
is none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from ampflow.reports.style import (
    ACCENT,
    GREY,
    MUTED,
    WINNER,
    Plot,
    escape,
    mae_axis,
    new_figure,
)
from ampflow.reports.trials import best_trial, complete_trials, varying_parameters
from ampflow.reports.wording import number

__all__ = ["describe_trial", "history", "importance_figure", "importances", "learning_curves"]

_MAE = "Validation MAE (eV per structure)"
_MOST_CURVES = 300
_CROSS = {"symbol": "x-thin", "size": 8, "line": {"color": GREY, "width": 1.5}}
_FEWEST_FOR_IMPORTANCE = 4


def history(trials: Sequence[FrozenTrial], baseline: float | None) -> Plot:
    """Plot the value of every trial and the best so far, in the order of their numbers.

    Parameters
    ----------
    trials
        Of the study.
    baseline
        Validation MAE of the linear reference, eV, drawn as a line; None for no line.
    """
    done = complete_trials(trials)
    if not done:
        return "No trial was completed."
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED and _finite(trial)]
    left_at = [_last_value(trial) for trial in pruned]
    values = [trial.value for trial in done]
    figure = new_figure()
    _add_trials(figure, pruned, left_at, "pruned, last value", _CROSS)
    _add_trials(figure, done, values, "complete", {"color": WINNER, "size": 8})
    figure.add_scatter(
        x=[trial.number for trial in done],
        y=np.minimum.accumulate(np.array(values, dtype=np.float64)),
        mode="lines",
        line={"shape": "hv", "color": ACCENT, "width": 2},
        name="best so far",
        hoverinfo="skip",
    )
    if baseline is not None:
        numbers = [trial.number for trial in trials]
        figure.add_scatter(
            x=[min(numbers) - 0.5, max(numbers) + 0.5],
            y=[baseline, baseline],
            mode="lines",
            line={"color": GREY, "dash": "dash", "width": 1.5},
            name="linear reference",
            hovertemplate="linear reference: %{y:.3g} eV<extra></extra>",
        )
    axis = {"title": {"text": "Trial"}, "tickformat": "d"}
    few = {"dtick": 1} if len(trials) <= 10 else {}
    figure.update_layout(xaxis=axis | few, yaxis=mae_axis([*values, *left_at, baseline], _MAE))
    return figure


def _add_trials(
    figure: go.Figure,
    trials: Sequence[FrozenTrial],
    values: Sequence[float | None],
    name: str,
    marker: dict[str, object],
) -> None:
    figure.add_scatter(
        x=[trial.number for trial in trials],
        y=values,
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[describe_trial(trial) for trial in trials],
        hovertemplate=f"%{{hovertext}}<br>{name}: %{{y:.3g}} eV<extra></extra>",
    )


def learning_curves(trials: Sequence[FrozenTrial]) -> Plot:
    """Plot what each trial reported epoch after epoch: pruned ones grey, the best one bold.

    Of more than 300 trials, the 300 with the lowest last values are shown.
    """
    known = [trial for trial in trials if _last_value(trial) is not None]
    if not known:
        return "No trial reported values epoch by epoch."
    known = sorted(known, key=lambda trial: _last_value(trial) or 0.0)[:_MOST_CURVES]
    best = best_trial(trials)
    rest = [trial for trial in known if best is None or trial.number != best.number]
    complete = [trial for trial in rest if trial.state == TrialState.COMPLETE]
    figure = new_figure()
    pruned = [trial for trial in rest if trial.state == TrialState.PRUNED]
    _add_curves(figure, pruned, "pruned", MUTED, 1)
    others = [t for t in rest if t.state not in (TrialState.PRUNED, TrialState.COMPLETE)]
    _add_curves(figure, others, "failed or unfinished", GREY, 1, dash="dot")
    _add_curves(figure, complete, "complete", WINNER, 1)
    _add_curves(figure, [best] if best else [], "best", ACCENT, 3)
    figure.add_scatter(
        x=[max(_finite(trial)) for trial in pruned],
        y=[_last_value(trial) for trial in pruned],
        mode="markers",
        marker=_CROSS,
        hoverinfo="skip",
        showlegend=False,
    )
    values = [value for trial in known for value in _finite(trial).values()]
    figure.update_layout(xaxis={"title": {"text": "Epoch"}}, yaxis=mae_axis(values, _MAE))
    return figure


def _add_curves(
    figure: go.Figure,
    trials: Sequence[FrozenTrial],
    name: str,
    color: str,
    width: int,
    dash: str = "solid",
) -> None:
    """Add all curves of one kind as one line with gaps, which keeps the page small."""
    epochs: list[int | None] = []
    values: list[float | None] = []
    labels: list[int | None] = []
    for trial in trials:
        curve = _finite(trial)
        epochs += [*curve, None]
        values += [*curve.values(), None]
        labels += [trial.number] * (len(curve) + 1)
    if epochs:
        figure.add_scatter(
            x=epochs,
            y=values,
            customdata=labels,
            name=name,
            mode="lines+markers" if len(epochs) == 2 * len(trials) else "lines",
            line={"color": color, "width": width, "dash": dash},
            opacity=0.6 if name == "complete" else 1,
            hovertemplate="trial %{customdata}, epoch %{x}: %{y:.3g} eV<extra></extra>",
        )


def importances(trials: Sequence[FrozenTrial]) -> dict[str, float] | str:
    """Compute each searched option's share of the difference between good and other trials.

    Optuna's PED-ANOVA (arXiv:2304.10255); the shares sum to 1, highest first.

    Returns
    -------
    dict or str
        A sentence where the trials cannot tell.
    """
    done = complete_trials(trials)
    if len(done) < _FEWEST_FOR_IMPORTANCE:
        return f"Importances need {_FEWEST_FOR_IMPORTANCE} complete trials; there are {len(done)}."
    if len({trial.value for trial in done}) == 1:
        return "All complete trials have the same value, so no option made a difference."
    names = varying_parameters(done)
    if not names:
        return "None of the searched options varied among the complete trials."
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.add_trials(done)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few trials: the page says so itself
        shares = optuna.importance.get_param_importances(study, params=names, normalize=False)
    total = sum(shares.values())
    if not total > 0:
        return "The complete trials are too few or too alike to tell what made the difference."
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: share / total for name, share in ranked}


def importance_figure(shares: dict[str, float] | str) -> Plot:
    """Plot the importances as bars, the highest on top."""
    if isinstance(shares, str):
        return shares
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    figure = new_figure(height=120 + 32 * len(names), showlegend=False)
    figure.add_bar(
        x=values,
        y=[escape(name) for name in names],
        orientation="h",
        marker={"color": WINNER},
        text=[f"{value:.0%}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_layout(
        xaxis={"title": {"text": "Share of importance"}, "tickformat": ".0%", "rangemode": "tozero"}
    )
    return figure


def _finite(trial: FrozenTrial) -> dict[int, float]:
    steps = sorted(trial.intermediate_values.items())
    return {step: value for step, value in steps if math.isfinite(value)}


def _last_value(trial: FrozenTrial) -> float | None:
    return next(reversed(_finite(trial).values()), None)


def describe_trial(trial: FrozenTrial) -> str:
    """Name a trial and its parameters in a hover box."""
    params = ", ".join(
        f"{escape(name)} {number(value) if isinstance(value, float) else escape(value)}"
        for name, value in trial.params.items()
    )
    return f"trial {trial.number}<br>{params}" if params else f"trial {trial.number}"
