from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState

from ampflow.reports.results import Results
from ampflow.reports.wording import duration, headline, markdown_summary, number, summary, verdict

Predict = Callable[..., pd.DataFrame]
Gather = Callable[..., Results]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(None, "–"), (0.0, "0"), (0.04321, "0.0432"), (2.5, "2.50"), (1234.5, "1,234")],
        *[(-0.5, "-0.500"), (1.2e-6, "1.20e-06"), (99.96, "100.0")],
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2134, "0.21 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_verdict_follows_the_test_part(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    # Better, worse and undecided are each said as they are.
    better = gather(predict(error=0.5, baseline=2.5), trials)
    worse = gather(predict(error=2.5, baseline=0.5), trials)
    unclear = gather(predict(error=0.50, baseline=0.51), trials)
    assert [verdict(r) for r in (better, worse, unclear)] == ["better", "worse", "unclear"]
    assert "is better than the linear reference by a factor of" in headline(better)
    assert "not better than the linear reference: do not use it" in headline(worse)
    assert "cannot tell them apart" in headline(unclear)
    assert better.winner_beats_baseline is True
    assert worse.winner_beats_baseline is False


def test_a_small_test_part_is_called_uncertain(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    few = " ".join(summary(gather(predict(test=3), trials)))
    assert "The test part has 3 structures: the winner's error is uncertain (95 % interval" in few
    one = " ".join(summary(gather(predict(test=1), trials)))
    assert "The test part has 1 structure: " in one
    assert "no interval from a single structure" in one
    assert "uncertain" not in " ".join(summary(gather(predict(test=40), trials)))


def test_no_test_part_no_claim(predict: Predict, gather: Gather, trials: list[FrozenTrial]) -> None:
    results = gather(predict(test=0), trials)
    assert results.test_mae_ev is None
    assert results.winner_beats_baseline is None
    assert "not known" in headline(results)


def test_without_a_complete_trial_there_is_no_winner(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    results = gather(predict().assign(predicted_ev=np.nan), pruned)
    assert headline(results) == "There is no model."
    assert "Of 6 trials, 6 stopped early (pruned). No trial was completed" in summary(results)[0]


def test_training_without_a_search_says_so(predict: Predict, gather: Gather) -> None:
    assert summary(gather(predict(), []))[0].startswith("Nothing was searched")


def test_markdown_holds_headline_numbers_and_parameters(
    predict: Predict, gather: Gather, trials: list[FrozenTrial]
) -> None:
    results = gather(predict(), trials)
    text = markdown_summary(results)
    assert headline(results) in text
    assert f"| test | 40 | {number(results.test_mae_ev)} eV" in text
    assert f"| num_nodes | {results.best_params['num_nodes']} |" in text
