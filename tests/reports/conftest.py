from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from ampflow.experiment import Experiment
from ampflow.reports.results import Results, Skipped, make_results

FORMULAS = ["Cu12", "Cu12O", "Ag12", "Ag12O", "Cu6Ag6", "Cu6Ag6CO", "Pd4", "Pd12H"]


def fake_objective(trial: Trial) -> float:
    """A made-up error that stands for training: no network is trained in these tests."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    nodes = trial.suggest_int("num_nodes", 8, 64, log=True)
    batch = trial.suggest_categorical("batch_size", [8, 16, 32])
    floor = 0.4 + 0.3 * abs(math.log10(lr) + 2.5) + 0.1 * abs(math.log2(nodes / 32)) + batch / 200
    for epoch in range(1, 31):
        trial.report(floor + 5 * math.exp(-epoch / 6), epoch)
        if epoch == 10 and trial.number % 3 == 2:
            raise optuna.TrialPruned
    if trial.number == 7:
        return math.nan
    return floor


@pytest.fixture(scope="session")
def trials() -> list[FrozenTrial]:
    """20 trials of a fake objective: most complete, six pruned, one failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(fake_objective, n_trials=20)
    return study.trials


@pytest.fixture
def predict() -> Callable[..., pd.DataFrame]:
    """Make predictions whose winner is off by about `error` and baseline by `baseline` eV."""

    def make(
        test: int = 40, error: float = 0.5, baseline: float = 2.5, file: str = "demo.traj"
    ) -> pd.DataFrame:
        rng = np.random.default_rng(1)
        parts = ["train"] * 200 + ["validation"] * 40 + ["test"] * test
        count = len(parts)
        energies = rng.normal(5, 4, count)
        formulas = rng.choice(FORMULAS, count)
        return pd.DataFrame(
            {
                "part": parts,
                "structure": np.arange(count),
                "file": file,
                "index": np.arange(count),
                "formula": formulas,
                "atoms": [12 + ("O" in f) + ("H" in f) for f in formulas],
                "energy_ev": energies,
                "predicted_ev": energies + error * rng.normal(0, 1.25, count),
                "baseline_ev": energies + baseline * rng.normal(0, 1.25, count),
            }
        )

    return make


@pytest.fixture
def gather() -> Callable[..., Results]:
    """Make results from predictions and trials, with made-up surroundings."""

    def make(predictions: pd.DataFrame, trials: list[FrozenTrial], **changes: object) -> Results:
        has_winner = bool(predictions["predicted_ev"].notna().any())
        options: dict[str, object] = {
            "study": "demo-3f2a",
            "experiment": Experiment(),
            "features": 32,
            "model": "demo/model" if has_winner else None,
            "skipped": [Skipped(file="demo.traj", index=7, reason="no energy")],
            "seconds": {"fingerprints": 0.21, "tuning": 84.3},
            "versions": {"ampflow": "0.1.0", "optuna": optuna.__version__},
            "digests": {"store": "0123456789abcdef0123"},
        }
        return make_results(predictions, trials, **(options | changes))  # type: ignore[arg-type]

    return make


def with_state(trials: list[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == state]
