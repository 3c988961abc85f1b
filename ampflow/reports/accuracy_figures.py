"""Figures of the accuracy on test: parity, errors by element, errors by composition.

Each is a pure function of the predictions (see `ampflow.reports.accuracy.COLUMNS`) that returns
a figure, or a sentence that says why there is none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from ase.formula import Formula
from plotly.subplots import make_subplots

from ampflow.reports.style import GREY, WINNER, Plot, escape, mae_axis, new_figure

__all__ = ["by_composition", "by_element", "parity"]

_NO_TEST = "There is no test part."
_NO_MODEL = "There is no winner to judge."
_MOST_POINTS = 3000
_MOST_GROUPS = 20


def _test_errors(predictions: pd.DataFrame) -> pd.DataFrame | str:
    """Return the test part with `error` and `baseline_error` (eV, predicted minus data)."""
    test = predictions[predictions["part"] == "test"].reset_index(drop=True)
    if test.empty:
        return _NO_TEST
    if test["predicted_ev"].isna().all():
        return _NO_MODEL
    return test.assign(
        error=test["predicted_ev"] - test["energy_ev"],
        baseline_error=test["baseline_ev"] - test["energy_ev"],
    )


def parity(predictions: pd.DataFrame) -> Plot:
    """Plot predicted over given energies of the test part, and the errors beside.

    Of more than 3000 structures, the 300 with the largest errors and others at random are shown.
    """
    test = _test_errors(predictions)
    if isinstance(test, str):
        return test
    test = _thin(test)
    figure = make_subplots(cols=2, horizontal_spacing=0.12, figure=new_figure(height=460))
    for name, predicted, error, marker in (
        ("linear reference", "baseline_ev", "baseline_error", _OPEN),
        ("winner", "predicted_ev", "error", _FULL),
    ):
        for column, y in ((1, predicted), (2, error)):
            figure.add_scatter(
                x=test["energy_ev"],
                y=test[y],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker=marker,
                hovertext=_names(test, name, predicted, error),
                hovertemplate="%{hovertext}<extra></extra>",
                col=column,
                row=1,
            )
    energies = [float(test["energy_ev"].min()), float(test["energy_ev"].max())]
    _add_line(figure, energies, energies, "exact", 1)
    _add_line(figure, energies, [0.0, 0.0], "exact", 2)
    figure.update_xaxes(title={"text": "Energy in the data (eV)"})
    figure.update_yaxes(title={"text": "Predicted energy (eV)"}, col=1)
    figure.update_yaxes(title={"text": "Predicted − data (eV)"}, col=2)
    return figure


_FULL = {"color": WINNER, "size": 7, "line": {"color": "white", "width": 0.5}}
_OPEN = {"color": "rgba(0,0,0,0)", "size": 7, "line": {"color": GREY, "width": 1.2}}


def _thin(test: pd.DataFrame) -> pd.DataFrame:
    if len(test) <= _MOST_POINTS:
        return test
    order = test["error"].abs().to_numpy().argsort()[::-1]
    rest = np.random.default_rng(0).choice(order[300:], _MOST_POINTS - 300, replace=False)
    return test.iloc[np.sort(np.concatenate([order[:300], rest]))]


def _names(test: pd.DataFrame, who: str, predicted: str, error: str) -> list[str]:
    columns = ["file", "index", "formula", "energy_ev", predicted, error]
    return [
        f"<b>{escape(formula)}</b><br>{escape(file)}, structure {index}"
        f"<br>data {energy:.3f} eV, {who} {value:.3f} eV<br>off by {off:+.3f} eV"
        for file, index, formula, energy, value, off in test[columns].itertuples(index=False)
    ]


def _add_line(figure: go.Figure, x: list[float], y: list[float], name: str, column: int) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=column == 1,
        line={"color": "#1f2430", "width": 1},
        hoverinfo="skip",
        col=column,
        row=1,
    )


def by_element(predictions: pd.DataFrame) -> Plot:
    """Plot the mean error of the test structures that contain each element, meV per atom."""
    test = _test_errors(predictions)
    if isinstance(test, str):
        return test
    groups = _element_sets(test).explode()
    if groups.nunique() < 2:
        return "The test structures have only one element."
    return _grouped(test.loc[groups.index], groups, "with ")


def by_composition(predictions: pd.DataFrame) -> Plot:
    """Plot the mean error of each composition in the test part, meV per atom.

    Compositions are formulas; where there are more than 20, sets of elements; of more than 20
    of those, the ones with the most structures.
    """
    test = _test_errors(predictions)
    if isinstance(test, str):
        return test
    groups = test["formula"]
    if groups.nunique() > _MOST_GROUPS:
        groups = _element_sets(test).str.join("–")
        groups = groups[groups.isin(groups.value_counts().index[:_MOST_GROUPS])]
    if groups.nunique() < 2:
        return "All test structures have the same composition."
    return _grouped(test.loc[groups.index], groups)


def _element_sets(test: pd.DataFrame) -> pd.Series[list[str]]:
    """Return each structure's elements, sorted."""
    known = {text: sorted(Formula(text).count()) for text in test["formula"].unique()}
    return test["formula"].map(known)


def _grouped(test: pd.DataFrame, groups: pd.Series[str], prefix: str = "") -> Plot:
    """Plot winner beside baseline for each group, the worst on top."""
    errors = pd.DataFrame(
        {
            "group": groups.to_numpy(),
            "winner": (test["error"].abs() / test["atoms"] * 1000).to_numpy(),
            "baseline": (test["baseline_error"].abs() / test["atoms"] * 1000).to_numpy(),
        }
    )
    means = errors.groupby("group").mean().sort_values(["winner", "baseline"])
    counts = errors["group"].value_counts()
    labels = [f"{prefix}{escape(group)} ({counts[group]})" for group in means.index]
    figure = new_figure(height=130 + 26 * len(means))
    for label, low, high in zip(labels, means["winner"], means["baseline"], strict=True):
        figure.add_scatter(
            x=[low, high],
            y=[label, label],
            mode="lines",
            line={"color": "#dfe2e7", "width": 3},
            showlegend=False,
            hoverinfo="skip",
        )
    for name, column, marker in (
        ("linear reference", "baseline", _OPEN),
        ("winner", "winner", _FULL),
    ):
        figure.add_scatter(
            x=means[column],
            y=labels,
            mode="markers",
            name=name,
            marker={**marker, "size": 10},
            hovertemplate=f"%{{y}}: %{{x:.3g}} meV per atom<extra>{name}</extra>",
        )
    figure.update_layout(
        xaxis=mae_axis([*means["winner"], *means["baseline"]], "Test MAE (meV per atom)"),
        yaxis={"tickmode": "array", "tickvals": labels},
    )
    return figure
