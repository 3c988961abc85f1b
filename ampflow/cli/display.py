"""What the terminal shows: progress bars while work goes on, tables when it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ampflow import progress as library

if TYPE_CHECKING:
    import pandas as pd

    from ampflow.experiment import Experiment
    from ampflow.planning import Plan
    from ampflow.tuning.study import StudySpec

__all__ = [
    "Bars",
    "StepBars",
    "show_plan",
    "show_results",
    "show_trial_table",
    "show_trials",
    "step_bars",
]


class Bars(Protocol):
    """Makes the progress of a step."""

    def __call__(self, step: str) -> library.Progress:
        """Return the progress of `step`."""


_SHOWN = 10  # structures left out that are listed
_WHOLE = 1e6  # smaller ones are not shortened


@contextmanager
def step_bars() -> Iterator[StepBars]:
    """Show a bar a step, made when the step first reports; yields what makes them.

    Where standard error is no terminal (a job's log), each step is one line at its end.
    """
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]:>13}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        bars = StepBars(shown, console)
        with library.watched_by(bars):
            yield bars
        bars.print_lines()


class StepBars:
    """The bars, one a step."""

    def __init__(self, shown: Progress, console: Console) -> None:
        self._shown, self._console = shown, console
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, str] = {}

    def __call__(self, step: str) -> library.Progress:
        """Return the progress of `step`, whose bar is made when it first reports."""

        def update(done: int, total: int | None, note: str = "") -> None:
            count = f"{done:,}/{total:,}" if total else f"{done:,}"
            self._last[step] = f"{step}: {count} {note}".rstrip()
            if step not in self._tasks:
                self._tasks[step] = self._shown.add_task(step, count="", note="", total=None)
            self._shown.update(
                self._tasks[step], completed=done, total=total, count=count, note=note
            )

        return update

    def lines(self) -> list[str]:
        """Say how far each step is."""
        return list(self._last.values())

    def print_lines(self) -> None:
        """Print a line a step, where bars cannot be shown."""
        if not self._console.is_terminal:
            for line in self.lines():
                self._console.print(line, highlight=False, markup=False)


def _table(*rows: tuple[str, object]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(f"[bold]{name}", escape(str(value)))
    return table


def show_plan(experiment: Experiment, plan: Plan) -> None:
    """Show what a run would do."""
    searched = ", ".join(experiment.tuning.space)
    mega = 1e6
    rejected = [f"{item.file}, structure {item.index}: {item.reason}" for item in plan.rejected]
    Console().print(
        _table(
            ("Files", "\n".join(map(str, plan.files))),
            (
                "Structures",
                f"{plan.structures:,}" + (f" ({len(rejected)} left out)" if rejected else ""),
            ),
            ("Atoms", f"{plan.atoms:,} of {', '.join(sorted(plan.elements))}"),
            (
                "Features",
                f"{plan.features} an atom"
                + (f"; up to {plan.most_features} in the search" if plan.most_features else ""),
            ),
            (
                "Trials",
                f"{plan.trials} of {experiment.training.epochs} epochs, "
                f"{plan.finished_trials} of them there already; searching {searched}",
            ),
            ("Fingerprints", "there already" if plan.fingerprinted else "to be computed"),
            ("Split", "there already" if plan.split else "to be made"),
            (
                "Disk",
                f"{plan.store_bytes / mega:,.1f} MB for fingerprints"
                + (" of each descriptor at most, " if plan.most_features else ", ")
                + f"{plan.free_bytes / mega:,.0f} MB free at {experiment.out}",
            ),
        )
    )
    _show_notes(plan.notes)
    for line in rejected[:_SHOWN]:
        Console().print(f"  left out: {line}", highlight=False, markup=False)
    if len(rejected) > _SHOWN:
        Console().print(f"  ... and {len(rejected) - _SHOWN} more")


def _show_notes(notes: Iterable[str]) -> None:
    for note in notes:
        Console().print(f"[yellow]Note:[/] {escape(note)}", highlight=False)


def show_results(page: Path) -> None:
    """Show the key figures of a finished run, and where its report is."""
    from ampflow.files import read_json

    results = read_json(page.with_name("results.json"))
    table = Table("", "Validation MAE", "Test MAE", "Test MAE", header_style="bold")
    for name, prefix in (("Winner", ""), ("Linear reference", "baseline_")):
        table.add_row(
            name,
            f"{results[f'{prefix}validation_mae_ev']:.4g} eV",
            f"{results[f'{prefix}test_mae_ev']:.4g} eV",
            f"{results[f'{prefix}test_mae_mev_per_atom']:.4g} meV/atom",
        )
    console = Console()
    console.print(table)
    _show_derivatives(console, results["errors"]["test"])
    if not results["winner_beats_baseline"]:
        console.print("[yellow]The winner does not beat the linear reference on test.")
    _show_notes(results["notes"])
    console.print(_table(("Model", results["model"]), ("Report", page)), soft_wrap=True)


def _show_derivatives(console: Console, test: dict[str, float | None]) -> None:
    """Show the test errors of forces and stresses, where they were trained on."""
    for name, unit, written in (
        ("forces", "ev_per_angstrom", "eV/Å"),
        ("stress", "ev_per_cubic_angstrom", "eV/Å³"),
    ):
        if (mae := test[f"{name}_mae_{unit}"]) is not None:
            size = test[f"{name}_size_{unit}"]
            console.print(f"Test MAE of {name} {mae:.4g} {written}; their mean size is {size:.4g}.")


def show_trials(spec: StudySpec) -> None:
    """Show a study's trials, the best first."""
    from ampflow.tuning.study import open_study, trial_table

    trials = trial_table(open_study(spec))
    show_trial_table(trials, spec.tuning.space, _SHOWN)
    if len(trials) > _SHOWN:
        more = f"... and {len(trials) - _SHOWN} more: ampflow studies show {spec.name}"
        Console().print(f"{more} --cache {spec.cache}", soft_wrap=True, markup=False)


def show_trial_table(trials: pd.DataFrame, searched: Iterable[str], most: int) -> None:
    """Show at most `most` trials of a table from `trial_table`, the best first."""
    names = ["number", "state", "value", *sorted(searched), "epochs"]
    titles = {"number": "trial", "value": "MAE (eV)"}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in names:  # a word a line; and rather two lines than a figure that is cut
        table.add_column("\n".join(titles.get(name, _words(name)).split()), overflow="fold")
    for row in trials.sort_values("value").head(most).to_dict("records"):
        row["value"] = "" if row["value"] != row["value"] else f"{row['value']:.4g}"
        table.add_row(*(_short(row[name]) for name in names))
    Console().print(table)
    for row in trials[trials["reason"].notna()].to_dict("records")[:most]:
        Console().print(f"  trial {row['number']} failed: {row['reason']}", markup=False)


def _words(name: str) -> str:
    return name.removeprefix("fingerprints.").replace("_", " ").replace(".", " ")


def _short(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < _WHOLE else f"{value:.2g}"
    return str(value)
