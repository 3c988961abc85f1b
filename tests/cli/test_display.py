from __future__ import annotations

import pandas as pd
import pytest

from ampflow.cli.display import show_trial_table


def test_trials_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Titles wrap, and no figure is cut; a whole number is whole.
    monkeypatch.setenv("COLUMNS", "80")
    row = {"number": 0, "state": "complete", "value": 0.12345, "reason": None, "epochs": 1500.0}
    searched = {"lr": 0.00123, "dropout_rate": 0.25, "num_nodes": 16, "gamma": 0.5, "step_size": 20}
    show_trial_table(pd.DataFrame([row | searched]), searched, 1)
    shown = capsys.readouterr().out
    assert "…" not in shown
    figures = shown.splitlines()[-2].split()
    assert figures == ["0", "complete", "0.1235", "0.25", "0.5", "0.0012", "16", "20", "1500"]
