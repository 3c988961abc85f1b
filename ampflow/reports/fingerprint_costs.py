"""What searched fingerprints cost, and how accurate trials were with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from ampflow.reports.style import ACCENT, GREY, WINNER, Plot, escape, mae_axis, new_figure
from ampflow.reports.tables import Table
from ampflow.reports.trials import complete_trials
from ampflow.reports.wording import duration, number, option
from ampflow.tuning.results import end_of

__all__ = ["Descriptor", "cost_figure", "descriptor_rows", "descriptors_of", "pareto"]

_PREFIX = "fingerprints."


@dataclass(frozen=True)
class Descriptor:
    """One of the descriptors of a search.

    Parameters
    ----------
    options
        What was searched of it.
    features, ms_per_structure, seconds
        As `ampflow.descriptors.Cost`.
    trials
        How many had it.
    best, best_trial
        Least validation MAE of those that were completed, eV per structure; None if none was.
    """

    options: dict[str, Any]
    features: int
    ms_per_structure: float
    seconds: float
    trials: int
    best: float | None
    best_trial: int | None


def descriptors_of(trials: Sequence[FrozenTrial]) -> list[Descriptor]:
    """Return the distinct descriptors of a search, the cheapest first; none without a search."""
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if cost := end_of(trial).get("fingerprints"):
            groups.setdefault(cost["store"], []).append(trial)
    found = [_descriptor(group) for group in groups.values()]
    return sorted(found, key=lambda one: (one.ms_per_structure, one.features))


def _descriptor(trials: Sequence[FrozenTrial]) -> Descriptor:
    cost = end_of(trials[0])["fingerprints"]
    params = trials[0].params
    best = min(complete_trials(trials), key=lambda trial: trial.value or 0.0, default=None)
    return Descriptor(
        {name.removeprefix(_PREFIX): params[name] for name in params if name.startswith(_PREFIX)},
        cost["features"],
        cost["ms_per_structure"],
        cost["seconds"],
        len(trials),
        best.value if best else None,
        best.number if best else None,
    )


def pareto(descriptors: Sequence[Descriptor]) -> list[Descriptor]:
    """Return the descriptors that none is both cheaper and more accurate than, cheapest first."""
    front: list[Descriptor] = []
    for one in sorted(descriptors, key=lambda one: (one.ms_per_structure, one.best or 0.0)):
        if one.best is not None and (not front or one.best < (front[-1].best or 0.0)):
            front.append(one)
    return front


def cost_figure(descriptors: Sequence[Descriptor]) -> Plot:
    """Plot the best error of each descriptor against its time for a structure."""
    known = [one for one in descriptors if one.best is not None]
    if not known:
        return "No trial was completed."
    front = pareto(known)
    figure = new_figure()
    for name, some, color in (
        ("others", [one for one in known if one not in front], GREY),
        ("none is cheaper and better", front, ACCENT),
    ):
        if some:
            figure.add_scatter(
                x=[one.ms_per_structure for one in some],
                y=[one.best for one in some],
                mode="lines+markers" if some is front else "markers",
                line={"shape": "hv", "color": WINNER, "width": 1.5},
                marker={"color": color, "size": 9},
                name=name,
                hovertext=[_describe(one) for one in some],
                hovertemplate="%{hovertext}<br>%{x:.3g} ms, %{y:.3g} eV<extra></extra>",
            )
    figure.update_layout(
        xaxis=mae_axis(
            [one.ms_per_structure for one in known], "Fingerprints of a structure (ms, one core)"
        ),
        yaxis=mae_axis([one.best for one in known], "Validation MAE (eV per structure)"),
    )
    return figure


def _describe(one: Descriptor) -> str:
    options = ", ".join(f"{escape(name)} {option(value)}" for name, value in one.options.items())
    return f"{options}<br>{one.features} features, trial {one.best_trial}"


def descriptor_rows(descriptors: Sequence[Descriptor]) -> Table:
    """List the descriptors from the best to the worst."""
    ranked = sorted(descriptors, key=lambda one: (one.best is None, one.best or 0.0))
    names = list(dict.fromkeys(name for one in ranked for name in one.options))
    front = pareto(ranked)
    rows = [
        [
            *(option(one.options.get(name, "–")) for name in names),
            str(one.features),
            number(one.ms_per_structure),
            duration(one.seconds),
            str(one.trials),
            number(one.best),
            "yes" if one in front else "",
        ]
        for one in ranked
    ]
    head = [*names, "features", "ms a structure", "computed in", "trials", "best MAE (eV)"]
    return Table([*head, "none cheaper and better"], rows, marked=0 if rows else None)
