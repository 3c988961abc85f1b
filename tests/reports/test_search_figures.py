from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ampflow.reports.contour import contour
from ampflow.reports.search_figures import (
    history,
    importance_figure,
    importances,
    learning_curves,
)

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "batch_size": CategoricalDistribution([8, 16, 32]),
}


def made(number: int, lr: float, batch_size: int, value: float) -> FrozenTrial:
    trial = create_trial(
        params={"lr": lr, "batch_size": batch_size}, distributions=SPACE, value=value
    )
    trial.number = number
    return trial


def traces(figure: go.Figure | str) -> dict[str, go.Scatter]:
    assert isinstance(figure, go.Figure)
    return {trace.name: trace for trace in figure.data}


def test_history_shows_every_end_and_the_best_so_far(trials: list[FrozenTrial]) -> None:
    shown = traces(history(trials, baseline=2.5))
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert list(shown["complete"].y) == [trial.value for trial in done]
    assert len(shown["pruned, last value"].x) == 6
    assert list(shown["best so far"].y) == list(np.minimum.accumulate([t.value for t in done]))
    assert set(shown["linear reference"].y) == {2.5}


def test_learning_curves_are_one_line_a_kind_with_gaps(trials: list[FrozenTrial]) -> None:
    # The best is set off, pruned ones are grey and end where they were pruned.
    shown = traces(learning_curves(trials))
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    assert list(shown["complete"].x).count(None) == complete - 1
    assert max(x for x in shown["pruned"].x if x is not None) == 10
    assert len(shown["best"].x) == 31


def test_values_that_are_not_finite_are_not_drawn() -> None:
    trial = create_trial(value=1.0, intermediate_values={1: math.inf, 2: math.nan, 3: 1.0})
    assert [x for x in traces(learning_curves([trial]))["best"].x if x is not None] == [3]


def test_importances_find_what_matters_and_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    trials = [
        made(i, lr := 10 ** rng.uniform(-4, -1), int(rng.choice([8, 16, 32])), math.log10(lr) + 5)
        for i in range(40)
    ]
    shares = importances(trials)
    assert isinstance(shares, dict)
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([], "there are 0"),
        ([made(0, 0.01, 8, 1.0)], "there are 1"),
        ([made(i, 0.01 * (i + 1), 8, 1.0) for i in range(5)], "same value"),
        ([made(i, 0.01, 8, 1.0 + i) for i in range(5)], "options varied"),
    ],
)
def test_a_sentence_where_importances_cannot_tell(trials: list[FrozenTrial], reason: str) -> None:
    found = importances(trials)
    assert isinstance(found, str)
    assert reason in found
    assert importance_figure(found) == found


def test_contour_axes_follow_the_search(trials: list[FrozenTrial]) -> None:
    # A logarithmic option is drawn in powers of ten, choices at equal distances.
    figure = contour(trials, ["lr", "batch_size"])
    assert isinstance(figure, go.Figure)
    assert list(figure.layout.xaxis.ticktext) == ["0.0001", "0.001", "0.01", "0.1"]
    assert list(figure.layout.xaxis.tickvals) == [-4, -3, -2, -1]
    assert list(figure.layout.yaxis.ticktext) == ["8", "16", "32"]
    star = figure.data[-1]
    best = min((t for t in trials if t.value is not None), key=lambda t: t.value or 0)
    assert star.x[0] == pytest.approx(math.log10(best.params["lr"]))


def test_contour_of_trials_on_one_line_has_points_and_no_surface() -> None:
    line = [made(i, 10.0 ** (i - 4), [8, 16, 32][i], 1.0 + i) for i in range(3)]
    figure = contour(line, ["lr", "batch_size"])
    assert isinstance(figure, go.Figure)
    assert [trace.type for trace in figure.data] == ["scatter", "scatter"]


def test_contour_needs_two_options_that_vary() -> None:
    constant = [made(i, 0.01 * (i + 1), 8, 1.0 + i) for i in range(5)]
    assert contour(constant, ["lr", "batch_size"]) == (
        "Fewer than two options varied among the complete trials."
    )
    assert isinstance(contour([], []), str)
    assert isinstance(history([], None), str)
    assert isinstance(learning_curves([]), str)
