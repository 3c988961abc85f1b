from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ampflow.reports.fingerprint_costs import (
    Descriptor,
    cost_figure,
    descriptor_rows,
    descriptors_of,
    pareto,
)
from ampflow.reports.page import render_page
from ampflow.reports.tables import hyperparameters

SPACE = {"fingerprints.cutoff": FloatDistribution(3, 8), "num_nodes": IntDistribution(1, 9)}


def made(number: int, cutoff: float, ms: float, value: float | None) -> FrozenTrial:
    cost = {"store": f"s{cutoff}", "features": 8, "seconds": 2.0, "ms_per_structure": ms}
    pruned = value is None
    trial = create_trial(
        params={"fingerprints.cutoff": cutoff, "num_nodes": number},
        distributions=SPACE,
        value=value,
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        user_attrs={"end": {"fingerprints": cost}},
    )
    trial.number = number
    return trial


TRIALS = [
    made(1, 3.0, 0.2, 0.9),
    made(2, 3.0, 0.2, 0.7),
    made(3, 5.0, 0.5, 0.8),
    made(4, 7.0, 0.9, 0.4),
    made(5, 8.0, 1.5, None),
]


# Trials with the same store are one descriptor, with the best of them; a descriptor whose trials
# were all pruned is in the table and not in the figure.
def test_distinct_descriptors() -> None:
    found = descriptors_of(TRIALS)
    assert [(one.ms_per_structure, one.trials, one.best) for one in found] == [
        (0.2, 2, 0.7),
        (0.5, 1, 0.8),
        (0.9, 1, 0.4),
        (1.5, 1, None),
    ]
    figure = cost_figure(found)
    assert isinstance(figure, go.Figure)
    shown = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    assert shown == {
        "none is cheaper and better": [(0.2, 0.7), (0.9, 0.4)],
        "others": [(0.5, 0.8)],
    }
    rows = descriptor_rows(found).rows
    assert [row[0] for row in rows] == ["7", "3", "5", "8"]
    assert [row[-1] for row in rows] == ["yes", "yes", "", ""]


# By definition: a point is on the front if no other is at most as dear and better.
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_pareto_front(points: list[tuple[int, int]]) -> None:
    some = [Descriptor({}, 1, float(ms), 0.0, 1, float(best), 0) for ms, best in points]
    expected = {
        (ms, best)
        for ms, best in points
        if not any(
            (m <= ms and b < best) or (m < ms and b <= best) for m, b in points
        )
    }  # fmt: skip
    front = [(one.ms_per_structure, one.best) for one in pareto(some)]
    assert set(front) == expected
    assert len(front) == len(expected)
    assert all(math.isfinite(ms) for ms, _ in front)


# The page has the figure and the table where descriptors were searched, and only there.
def test_on_the_page(
    predict: Callable[..., pd.DataFrame], gather: Any, trials: list[FrozenTrial]
) -> None:
    table = predict()
    page = render_page(gather(table, TRIALS), table, TRIALS)
    assert "figure-costs" in page
    assert "<h3>Descriptors</h3>" in page
    without = render_page(gather(table, trials), table, trials)
    assert "figure-costs" not in without
    assert "<h3>Descriptors</h3>" not in without


# Searched fingerprints stand among the winner's hyperparameters.
def test_among_the_hyperparameters(predict: Callable[..., pd.DataFrame], gather: Any) -> None:
    table = predict()
    rows = hyperparameters(gather(table, TRIALS), TRIALS).rows
    assert [row[:3] for row in rows if row[0] == "fingerprints.cutoff"] == [
        ["fingerprints.cutoff", "7", "3 to 8"]
    ]
