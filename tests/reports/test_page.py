from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.offline
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from ampflow.reports.page import render_page, write_report
from ampflow.reports.results import Results, Skipped
from ampflow.reports.trials import trials_frame

Predict = Callable[..., pd.DataFrame]
Gather = Callable[..., Results]


class _Page(HTMLParser):
    """Collects what a page loads, its ids, its scripts and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.anchors.append(value or "")
            elif name in ("src", "href", "data", "poster", "srcset"):
                self.loads.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


def without_plotly(page: str) -> str:
    return page.replace(plotly.offline.get_plotlyjs(), "")


# A winner that was trained on forces is judged by them as well, on the page and in the tables.
def test_errors_of_forces(
    tmp_path: Path, predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    table = predict()
    plain = _Page(render_page(gather(table, trials), table, trials)).words
    assert "errors of forces" not in plain
    table["forces_mae_ev_per_angstrom"], table["forces_size_ev_per_angstrom"] = 0.0625, 0.75
    page = write_report(gather(table, trials), table, trials, tmp_path)
    text = page.read_text()
    for row in (["Forces, eV/Å", *["0.0625"] * 3], ["their mean size", *["0.750"] * 3]):
        assert "".join(f"<td>{cell}</td>" for cell in row) in text
    assert "Stresses, eV" not in without_plotly(text)
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert (written["forces_mae_ev_per_angstrom"] == 0.0625).all()
    errors = json.loads((tmp_path / "results.json").read_text())["errors"]["test"]
    assert errors["forces_mae_ev_per_angstrom"] == 0.0625
    assert errors["stress_mae_ev_per_cubic_angstrom"] is None


def test_results_json_has_what_programs_read(
    tmp_path: Path, predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    table = predict()
    write_report(gather(table, trials), table, trials, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    test = table[table["part"] == "test"]
    wrong = (test["predicted_ev"] - test["energy_ev"]).abs()
    assert found["structures"] == len(table)
    assert found["atoms"] == table["atoms"].sum()
    assert found["features"] == 32
    assert found["splits"] == {"train": 200, "validation": 40, "test": 40}
    assert found["trials"] == {"complete": 13, "pruned": 6, "failed": 1, "unfinished": 0}
    assert found["test_mae_ev"] == pytest.approx(wrong.mean())
    assert found["test_mae_mev_per_atom"] == pytest.approx((wrong / test["atoms"]).mean() * 1000)
    baseline = (test["baseline_ev"] - test["energy_ev"]).abs().mean()
    assert found["baseline_test_mae_ev"] == pytest.approx(baseline)
    assert found["winner_beats_baseline"] is True
    best = min((t for t in trials if t.value is not None), key=lambda t: t.value or 0)
    assert found["best_params"] == best.params
    assert found["best_trial"] == best.number
    assert found["skipped"] == [{"file": "demo.traj", "index": 7, "reason": "no energy"}]
    assert found["seed"] == 0
    assert {"seconds", "versions", "digests", "experiment", "validation_mae_ev"} <= set(found)


def test_results_can_be_read_back(
    tmp_path: Path, predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    results = gather(predict(), trials)
    write_report(results, predict(), trials, tmp_path)
    assert Results.model_validate_json((tmp_path / "results.json").read_text()) == results


def test_tables_have_a_row_a_trial_and_a_row_a_structure(
    tmp_path: Path, predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    table = predict()
    write_report(gather(table, trials), table, trials, tmp_path)
    rows = pd.read_csv(tmp_path / "trials.csv")
    assert list(rows.columns) == [
        *("number", "state", "validation_mae_ev", "last_epoch", "best_epoch", "seconds"),
        *("lr", "num_nodes", "batch_size", "note"),
    ]
    assert rows["state"].value_counts().to_dict() == {"complete": 13, "pruned": 6, "failed": 1}
    assert rows["last_epoch"].tolist() == [10 if t.number % 3 == 2 else 30 for t in trials]
    back = pd.read_csv(tmp_path / "predictions.csv")
    np.testing.assert_allclose(back["predicted_ev"], table["predicted_ev"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("predictions.csv", "report.html", "results.json", "trials.csv"),
    ]


def test_why_a_trial_failed_is_told(predict: Predict, gather: Gather) -> None:
    # What the worker left with a trial: seconds of training, best epoch, reason, shared training.
    failed = create_trial(
        state=TrialState.FAIL, user_attrs={"reason": "diverged in epoch 3", "seconds": 2.5}
    )
    twin = create_trial(value=1.0, user_attrs={"reused_from": 4, "best_epoch": 17})
    twin.number = 1
    frame = trials_frame([twin, failed])
    assert frame["note"].tolist() == ["diverged in epoch 3", "same training as trial 4"]
    assert frame["seconds"][0] == 2.5
    assert frame["best_epoch"][1] == 17
    words = _Page(without_plotly(render_page(gather(predict(), []), predict(), [failed]))).words
    assert "diverged in epoch 3" in words


def test_page_loads_nothing_and_holds_every_figure(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    # Plotly's script is there once; the browser is told to load nothing else.
    page = render_page(gather(predict(), trials), predict(), trials)
    assert page.count(plotly.offline.get_plotlyjs()) == 1
    rest = without_plotly(page)
    found = _Page(rest)
    assert found.loads == []
    assert not re.search(r"https?://|@import|url\(", rest)
    assert "default-src 'none'" in rest
    names = ["parity", "elements", "compositions", "history", "curves", "importances", "contour"]
    for name in names:
        assert f"figure-{name}" in found.ids
    assert rest.count("Plotly.newPlot(") == len(names)
    assert len(found.ids) == len(set(found.ids))
    assert {anchor.removeprefix("#") for anchor in found.anchors} <= set(found.ids)
    assert "sendChartToCloud" not in rest


def test_page_says_whether_the_winner_is_better(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    def words(error: float, baseline: float) -> str:
        table = predict(error=error, baseline=baseline)
        return _Page(without_plotly(render_page(gather(table, trials), table, trials))).words

    assert "The winner is better than the linear reference by" in words(0.5, 2.5)
    assert "The winner is not better than the linear reference" in words(2.5, 0.5)


def test_text_of_users_stays_text(gather: Gather, predict: Predict) -> None:
    # A file, a study or a reason named like a script runs nowhere: not in the page, not in the
    # data of a figure, not in a hover box, which Plotly reads as HTML.
    evil = "<script>alert(1)</script>"
    table = predict(file=evil)
    skipped = [Skipped(file=evil, index=0, reason=evil)]
    results = gather(table, [], study=evil, skipped=skipped, versions={evil: evil}, model=evil)
    page = without_plotly(render_page(results, table, []))
    assert "<script>alert" not in page
    clean = without_plotly(render_page(gather(predict(), []), predict(), []))
    assert _Page(page).tags.count("script") == _Page(clean).tags.count("script")
    assert not re.search(r"\\u003cscript", page)
    hover = re.search(r'"hovertext":\[".{200}', page)
    assert hover
    assert "lt;script" in hover.group()


def test_page_of_one_complete_trial(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    one = [trial for trial in trials if trial.state == TrialState.COMPLETE][:1]
    words = _Page(without_plotly(render_page(gather(predict(), one), predict(), one))).words
    assert "Importances need 4 complete trials; there are 1." in words
    assert "Fewer than two options varied" in words


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_page_without_a_winner(
    state: TrialState,
    tmp_path: Path,
    predict: Predict,
    gather: Gather,
    trials: list[FrozenTrial],
) -> None:
    # No complete trial: the page, the tables and JSON's null are there all the same.
    some = [trial for trial in trials if trial.state == state]
    table = predict().assign(predicted_ev=np.nan)
    path = write_report(gather(table, some), table, some, tmp_path)
    words = _Page(without_plotly(path.read_text())).words
    assert "There is no model." in words
    assert "There is no model to use." in words
    assert json.loads((tmp_path / "results.json").read_text())["test_mae_ev"] is None


def test_training_without_a_search_has_a_page(gather: Gather, predict: Predict) -> None:
    words = _Page(without_plotly(render_page(gather(predict(), []), predict(), []))).words
    assert "Nothing was searched" in words


def test_a_model_and_its_predictions_come_together(gather: Gather, predict: Predict) -> None:
    with pytest.raises(ValueError, match="or neither"):
        gather(predict(), [], model=None)
