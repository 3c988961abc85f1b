from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from ampflow.reports.accuracy_figures import by_composition, by_element, parity

Predict = Callable[..., pd.DataFrame]


def test_parity_shows_the_test_part_alone(predict: Predict) -> None:
    table = predict(test=40)
    figure = parity(table)
    assert isinstance(figure, go.Figure)
    winner = next(trace for trace in figure.data if trace.name == "winner")
    test = table[table["part"] == "test"]
    np.testing.assert_array_equal(winner.x, test["energy_ev"])
    np.testing.assert_array_equal(winner.y, test["predicted_ev"])
    first = test.iloc[0]
    for word in (first["formula"], "demo.traj", f"structure {first['index']}"):
        assert word in winner.hovertext[0]


def test_a_large_test_part_is_thinned_and_keeps_the_worst(predict: Predict) -> None:
    table = predict(test=5000)
    worst = table[table["part"] == "test"].eval("abs(predicted_ev - energy_ev)").idxmax()
    figure = parity(table)
    assert isinstance(figure, go.Figure)
    winner = next(trace for trace in figure.data if trace.name == "winner")
    assert len(winner.x) == 3000
    assert table.loc[worst, "energy_ev"] in winner.x


def test_errors_by_element_count_every_structure_that_holds_it(predict: Predict) -> None:
    table = predict(test=60)
    figure = by_element(table)
    assert isinstance(figure, go.Figure)
    winner = next(trace for trace in figure.data if trace.name == "winner")
    test = table[(table["part"] == "test") & table["formula"].str.contains("Pd")]
    place = next(i for i, label in enumerate(winner.y) if label.startswith("with Pd"))
    assert winner.y[place] == f"with Pd ({len(test)})"
    wrong = (test["predicted_ev"] - test["energy_ev"]).abs() / test["atoms"] * 1000
    assert winner.x[place] == pytest.approx(wrong.mean())


def test_many_formulas_are_gathered_by_their_elements(predict: Predict) -> None:
    table = predict(test=60)
    table["formula"] = [f"Cu{i + 1}O" if i % 2 else f"Ag{i + 1}" for i in range(len(table))]
    figure = by_composition(table)
    assert isinstance(figure, go.Figure)
    winner = next(trace for trace in figure.data if trace.name == "winner")
    assert sorted(winner.y) == ["Ag (30)", "Cu–O (30)"]


def test_sentences_where_there_is_nothing_to_compare(predict: Predict) -> None:
    assert parity(predict(test=0)) == "There is no test part."
    assert parity(predict().assign(predicted_ev=np.nan)) == "There is no winner to judge."
    one = predict().assign(formula="Mo2")
    assert by_element(one) == "The test structures have only one element."
    assert by_composition(one) == "All test structures have the same composition."
