"""Numbers and sentences a person reads."""

from __future__ import annotations

import math
from typing import Literal

from ampflow.reports.accuracy import Interval, PartErrors
from ampflow.reports.results import Results

__all__ = [
    "duration",
    "headline",
    "interval",
    "markdown_summary",
    "number",
    "option",
    "summary",
    "verdict",
]

_FEW = 30  # structures; below, the uncertainty of a mean is said in words

Verdict = Literal["better", "unclear", "worse", "unknown"]


def number(value: float | None, digits: int = 3) -> str:
    """Format a number to `digits` significant digits, never as 1e+03; None is a dash."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def option(value: object) -> str:
    """Format the value of an option: 0.00443, tanh."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Format a duration: 0.21 s, 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def interval(bounds: Interval | None) -> str:
    """Format a 95 % interval of an energy."""
    if bounds is None:
        return "no interval from a single structure"
    return f"95 % interval {number(bounds[0])} to {number(bounds[1])} eV"


def verdict(results: Results) -> Verdict:
    """Judge the winner on test: unclear where the gain's interval includes zero."""
    test = results.errors.get("test")
    if test is None or test.winner_is_better is None:
        return "unknown"
    bounds = test.gain_interval_ev
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "unclear"
    return "better" if test.winner_is_better else "worse"


def headline(results: Results) -> str:
    """Say in one sentence whether the winner is better than the linear reference on test."""
    test, judged = results.errors.get("test"), verdict(results)
    if results.model is None:
        return "There is no model."
    if test is None or judged == "unknown":
        return "There is no test part: how good the model is on new structures is not known."
    if judged == "worse":
        return "The winner is not better than the linear reference: do not use it."
    if judged == "unclear":
        side = "better" if test.winner_is_better else "worse"
        return (
            f"The winner is {side} than the linear reference on test, but by less than the "
            "uncertainty: this test cannot tell them apart."
        )
    ratio = test.baseline_mae_ev / test.mae_ev if test.mae_ev else math.inf
    factor = f" by a factor of {number(ratio, 2)}" if math.isfinite(ratio) else ""
    return f"The winner is better than the linear reference{factor}."


def summary(results: Results) -> list[str]:
    """Explain the headline in a few sentences."""
    test = results.errors.get("test")
    sentences = [_search(results)]
    if test is not None and test.mae_ev is not None:
        sentences += [_accuracy(test), _advice(verdict(results)), _trust(test)]
    if results.skipped:
        sentences.append(
            f"{_plural(len(results.skipped), 'structure')} could not be used and "
            f"{'was' if len(results.skipped) == 1 else 'were'} left out, see Data."
        )
    return [sentence for sentence in [*sentences, *results.notes] if sentence]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _search(results: Results) -> str:
    trials = results.trials
    total = trials.complete + trials.pruned + trials.failed + trials.unfinished
    if not total:
        return "Nothing was searched: the hyperparameters are those of the experiment file."
    ends = {
        "completed": trials.complete,
        "stopped early (pruned)": trials.pruned,
        "failed": trials.failed,
        "not finished": trials.unfinished,
    }
    told = ", ".join(f"{count:,} {end}" for end, count in ends.items() if count)
    sentence = f"Of {_plural(total, 'trial')}, {told}."
    if results.best_trial is None:
        return f"{sentence} No trial was completed, so there is no winner."
    return f"{sentence} The winner is trial {results.best_trial}, the best on validation."


def _accuracy(test: PartErrors) -> str:
    return (
        f"On {_plural(test.structures, 'test structure')}, used neither to fit nor to choose, "
        f"the winner misses the energy by {number(test.mae_ev)} eV per structure "
        f"({number(test.mae_mev_per_atom)} meV per atom) on average; the linear reference, one "
        f"energy an element, misses it by {number(test.baseline_mae_ev)} eV "
        f"({number(test.baseline_mae_mev_per_atom)} meV per atom)."
    )


def _advice(judged: Verdict) -> str:
    if judged != "worse":
        return ""
    return (
        "It tells less about the energy than the composition alone does. More data, more epochs "
        "or a wider search may help."
    )


def _trust(test: PartErrors) -> str:
    if test.structures >= _FEW:
        return ""
    return (
        f"The test part has {_plural(test.structures, 'structure')}: the winner's error is "
        f"uncertain ({interval(test.interval_ev)})."
    )


def markdown_summary(results: Results) -> str:
    """Write the headline, the summary, the key numbers and the best hyperparameters as Markdown."""
    lines = [f"**{headline(results)}**", "", " ".join(summary(results)), ""]
    lines += ["| part | structures | winner | linear reference |", "|---|---:|---:|---:|"]
    for part, errors in results.errors.items():
        lines.append(
            f"| {part} | {errors.structures:,} "
            f"| {number(errors.mae_ev)} eV ({number(errors.mae_mev_per_atom)} meV/atom) "
            f"| {number(errors.baseline_mae_ev)} eV "
            f"({number(errors.baseline_mae_mev_per_atom)} meV/atom) |"
        )
    if results.best_params:
        lines += ["", "| hyperparameter | best |", "|---|---:|"]
        for name, value in results.best_params.items():
            lines.append(f"| {name} | {option(value)} |")
    return "\n".join(lines) + "\n"
