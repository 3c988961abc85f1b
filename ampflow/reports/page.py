"""The page, and the files that lie beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
import plotly.io
import plotly.offline
from markupsafe import Markup
from optuna.trial import FrozenTrial

from ampflow.experiment_file import render_experiment
from ampflow.files import atomic_path, write_json, write_text
from ampflow.reports import tables, wording
from ampflow.reports.accuracy import COLUMNS, DERIVATIVES
from ampflow.reports.accuracy_figures import by_composition, by_element, parity
from ampflow.reports.contour import contour
from ampflow.reports.fingerprint_costs import cost_figure, descriptor_rows, descriptors_of
from ampflow.reports.results import Results
from ampflow.reports.search_figures import (
    history,
    importance_figure,
    importances,
    learning_curves,
)
from ampflow.reports.style import Plot
from ampflow.reports.trials import parameter_names, trials_frame

__all__ = ["render_page", "write_report"]

_PLOT_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # Named one by one: Plotly's own choice has a button that uploads the figure.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    "toImageButtonOptions": {"format": "svg"},
}


@dataclass(frozen=True)
class _Panel:
    """A figure of the page, or the sentence that stands in its place."""

    name: str
    title: str
    caption: str
    plot: Plot

    @property
    def markup(self) -> Markup | None:
        if isinstance(self.plot, str):
            return None
        # Plotly writes <, > and / inside the script as \\u003c and so on.
        part = plotly.io.to_html(
            self.plot,
            config=_PLOT_CONFIG,
            include_plotlyjs=False,
            full_html=False,
            div_id=f"figure-{self.name}",
            default_height=f"{self.plot.layout.height}px",
        )
        return Markup(part)  # noqa: S704


def write_report(
    results: Results, predictions: pd.DataFrame, trials: Sequence[FrozenTrial], out: Path
) -> Path:
    """Write report.html, results.json, trials.csv and predictions.csv into `out`.

    Parameters
    ----------
    results
        From `ampflow.reports.results.make_results`.
    predictions
        One row a structure, see `ampflow.reports.accuracy.COLUMNS`.
    trials
        Of the study, in any order and state; lower values are better.
    out
        Folder, made if it does not exist.

    Returns
    -------
    pathlib.Path
        Of report.html.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    write_json(out / "results.json", results.model_dump(mode="json"))
    _write_csv(out / "trials.csv", trials_frame(trials))
    columns = [*COLUMNS, *(name for name in DERIVATIVES if name in predictions)]
    _write_csv(out / "predictions.csv", predictions[columns])
    write_text(out / "report.html", render_page(results, predictions, trials))
    return out / "report.html"


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as part:
        frame.to_csv(part, index=False)


def render_page(results: Results, predictions: pd.DataFrame, trials: Sequence[FrozenTrial]) -> str:
    """Render the page: one HTML file that loads nothing from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ampflow.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quoted"] = json.dumps
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("page.html").render(
        results=results,
        title=results.study or "Training without a search",
        headline=wording.headline(results),
        summary=wording.summary(results),
        verdict=wording.verdict(results),
        key_numbers=tables.key_numbers(results),
        derivatives=tables.derivatives(results),
        test_interval=_test_interval(results),
        accuracy=_accuracy_panels(predictions),
        search=_search_panels(results, trials) if trials else [],
        hyperparameters=tables.hyperparameters(results, trials) if results.model else None,
        descriptors=descriptor_rows(descriptors_of(trials)),
        trials=tables.trial_rows(trials),
        trial_notes=tables.trial_notes(trials),
        files=tables.data_files(predictions),
        skipped=tables.skipped_structures(results),
        steps=tables.steps(results),
        ended=_last_end(trials),
        experiment=render_experiment(results.experiment),
        plotly_js=Markup(plotly.offline.get_plotlyjs()),  # noqa: S704
    )


def _test_interval(results: Results) -> str:
    test = results.errors.get("test")
    return wording.interval(test.interval_ev) if test and test.mae_ev is not None else ""


def _last_end(trials: Sequence[FrozenTrial]) -> str:
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return f"{max(ends):%Y-%m-%d %H:%M}" if ends else "–"


def _accuracy_panels(predictions: pd.DataFrame) -> list[_Panel]:
    return [
        _Panel(
            "parity",
            "Predicted and given energies",
            "Test structures. Left, points on the line are predicted exactly; right, what is "
            "left over. Point at one to see which structure it is. Of more than 3000, the 300 with "
            "the largest errors and others at random are drawn.",
            parity(predictions),
        ),
        _Panel(
            "elements",
            "Error by element",
            "Mean absolute error of the test structures that contain an element, and in brackets "
            "how many they are.",
            by_element(predictions),
        ),
        _Panel(
            "compositions",
            "Error by composition",
            "Mean absolute error of test structures with the same formula, or the same set of "
            "elements where there are more than 20 formulas; in brackets how many they are.",
            by_composition(predictions),
        ),
    ]


def _search_panels(results: Results, trials: Sequence[FrozenTrial]) -> list[_Panel]:
    shares = importances(trials)
    names = list(shares) if isinstance(shares, dict) else parameter_names(trials)
    return [
        _Panel(
            "history",
            "Optimisation history",
            "Each trial's error on validation. A search that still improves at its end is worth "
            "more trials.",
            history(trials, results.baseline_validation_mae_ev),
        ),
        _Panel(
            "curves",
            "Learning curves",
            "Error on validation, epoch after epoch; crosses are where trials were pruned. Of more "
            "than 300 trials, those with the lowest last values are drawn.",
            learning_curves(trials),
        ),
        _Panel(
            "importances",
            "Importance of the hyperparameters",
            "How much each searched option separates the best trials from the others "
            "(PED-ANOVA). From fewer than about 50 trials it is a hint, no more.",
            importance_figure(shares),
        ),
        _Panel(
            "contour",
            "The two most important hyperparameters",
            "Error on validation; points are complete trials, the star is the best. Between the "
            "trials it is interpolated.",
            contour(trials, names),
        ),
        *_descriptor_panels(trials),
    ]


def _descriptor_panels(trials: Sequence[FrozenTrial]) -> list[_Panel]:
    searched = descriptors_of(trials)
    if not searched:
        return []
    caption = (
        "Each point is a descriptor: the least error on validation of the trials that had it, and "
        "how long its fingerprints take for a structure of this data, on one core. On the line are "
        "those that no other is both cheaper and better than."
    )
    return [_Panel("costs", "Accuracy and cost of fingerprints", caption, cost_figure(searched))]
