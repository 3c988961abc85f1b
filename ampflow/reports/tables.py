"""The tables of the page, as rows of text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from ampflow.experiment import Fingerprints, Training
from ampflow.reports.accuracy import PARTS
from ampflow.reports.results import Results
from ampflow.reports.trials import best_trial, parameter_names, trials_frame
from ampflow.reports.wording import duration, number, option

__all__ = [
    "Table",
    "data_files",
    "derivatives",
    "hyperparameters",
    "key_numbers",
    "skipped_structures",
    "steps",
    "trial_rows",
]

_MOST_ROWS = 200


@dataclass(frozen=True)
class Table:
    """A table: its head, its rows, which row to set off, and what was left out."""

    head: list[str]
    rows: list[list[str]]
    marked: int | None = None
    note: str = ""


def key_numbers(results: Results) -> Table:
    """Errors of winner and linear reference on every part."""
    head, winner, baseline = [""], ["Winner"], ["Linear reference"]
    for part in PARTS:
        if errors := results.errors.get(part):
            head += [f"{part} ({errors.structures:,})"]
            winner += [_both(errors.mae_ev, errors.mae_mev_per_atom)]
            baseline += [_both(errors.baseline_mae_ev, errors.baseline_mae_mev_per_atom)]
    return Table(head, [winner, baseline], marked=0)


def derivatives(results: Results) -> Table | None:
    """Errors of the winner's forces and stresses beside their size, where it was trained on."""
    parts = [part for part in PARTS if part in results.errors]
    rows = []
    for label, name in (
        ("Forces, eV/Å", "forces_{}_ev_per_angstrom"),
        ("Stresses, eV/Å³", "stress_{}_ev_per_cubic_angstrom"),
    ):
        mae, size = (
            [getattr(results.errors[part], name.format(kind)) for part in parts]
            for kind in ("mae", "size")
        )
        if any(value is not None for value in mae):
            rows.append([label, *map(number, mae)])
            rows.append(["their mean size", *map(number, size)])
    return Table(["", *parts], rows) if rows else None


def _both(mae_ev: float | None, mae_mev_per_atom: float | None) -> str:
    if mae_ev is None:
        return "–"
    return f"{number(mae_ev)} eV\n{number(mae_mev_per_atom)} meV/atom"


def hyperparameters(results: Results, trials: Sequence[FrozenTrial]) -> Table:
    """Every option of the winner's training, searched or not, and its searched fingerprints."""
    best = best_trial(trials)
    fixed = results.experiment.training.model_dump()
    rows = []
    for name, field in Training.model_fields.items():
        searched = best.distributions.get(name) if best else None
        value = best.params[name] if best and searched else fixed[name]
        found = _range(searched, value) if searched else "fixed"
        rows.append([name, option(value), found, field.description or ""])
    for name, kind in best.distributions.items() if best else ():
        if best and name.startswith("fingerprints."):
            about = Fingerprints.model_fields[name.split(".")[1]].description or ""
            value = best.params[name]
            rows.append([name, option(value), _range(kind, value), about])
    return Table(["option", "value", "searched in", "meaning"], rows)


def _range(kind: BaseDistribution, value: object) -> str:
    """Describe what was searched, and say when the best value lies at its edge."""
    if isinstance(kind, CategoricalDistribution):
        return ", ".join(option(choice) for choice in kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    text = f"{option(kind.low)} to {option(kind.high)}" + (", log" if kind.log else "")
    if kind.low == kind.high:
        return text
    low, high, at = (float(x) for x in (kind.low, kind.high, value))  # type: ignore[arg-type]
    if kind.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    place = (at - low) / (high - low)
    if place < 0.02:
        return f"{text}; best at the lower edge"
    return f"{text}; best at the upper edge" if place > 0.98 else text


def trial_rows(trials: Sequence[FrozenTrial]) -> Table:
    """Trials from the best to the worst, then those that did not complete."""
    frame = trials_frame(trials)
    frame["later"] = frame["state"] != "complete"
    frame = frame.sort_values(["later", "validation_mae_ev", "number"]).drop(columns="later")
    names = parameter_names(trials)
    rows = [
        [
            str(trial["number"]),
            str(trial["state"]),
            number(_known(trial["validation_mae_ev"])),
            f"{_or_dash(trial['best_epoch'])} / {_or_dash(trial['last_epoch'])}",
            duration(_known(trial["seconds"])),
            *(_or_dash(trial[name]) for name in names),
        ]
        for trial in frame.head(_MOST_ROWS).astype(object).to_dict("records")
    ]
    left = len(frame) - len(rows)
    note = f"{left:,} more are in trials.csv." if left else ""
    head = ["trial", "state", "validation MAE (eV)", "best / last epoch", "time"]
    head += [re.sub(r"([_.])", "\\1\u200b", name) for name in names]  # may break there
    return Table(head, rows, 0 if best_trial(trials) else None, note)


def trial_notes(trials: Sequence[FrozenTrial]) -> Table:
    """Say why trials failed, and which share the training of another."""
    frame = trials_frame(trials)
    frame = frame[frame["note"] != ""]
    told = frame[["number", "state", "note"]].head(_MOST_ROWS).astype(str)
    left = len(frame) - len(told)
    note = f"{left:,} more are in trials.csv." if left else ""
    return Table(["trial", "state", "note"], told.to_numpy().tolist(), note=note)


def _known(value: object) -> float | None:
    return value if isinstance(value, float) and not math.isnan(value) else None


def _or_dash(value: object) -> str:
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else option(value)


def data_files(predictions: pd.DataFrame) -> Table:
    """How many structures of each file are in each part."""
    counts = pd.crosstab(predictions["file"], predictions["part"])
    parts = [part for part in PARTS if part in counts]
    rows = [
        [str(file), *(f"{count:,}" for count in row)]
        for file, row in zip(counts.index, counts[parts].to_numpy(), strict=True)
    ]
    left = len(rows) - _MOST_ROWS
    note = f"and {left:,} more files" if left > 0 else ""
    return Table(["file", *parts], rows[:_MOST_ROWS], note=note)


def skipped_structures(results: Results) -> Table:
    """List structures that were left out."""
    rows = [[item.file, str(item.index), item.reason] for item in results.skipped[:_MOST_ROWS]]
    left = len(results.skipped) - len(rows)
    note = f"{left:,} more are in results.json." if left else ""
    return Table(["file", "structure", "why"], rows, note=note)


def steps(results: Results) -> Table:
    """How long each step took."""
    rows = [[step, duration(seconds)] for step, seconds in results.seconds.items()]
    return Table(["step", "time"], rows)
