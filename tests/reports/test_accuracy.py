from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ampflow.reports.accuracy import error_figures

ROWS = [
    # part, atoms, energy, predicted, baseline
    ("train", 2, 1.0, 1.5, 3.0),
    ("validation", 4, 2.0, 2.2, 2.0),
    ("test", 2, 1.0, 2.0, 1.0),
    ("test", 10, -3.0, -6.0, -1.0),
]


@pytest.fixture
def table() -> pd.DataFrame:
    names = ["part", "atoms", "energy_ev", "predicted_ev", "baseline_ev"]
    table = pd.DataFrame(ROWS, columns=names)
    return table.assign(structure=range(4), file="a.traj", index=range(4), formula="Cu")


def test_errors_are_the_means_over_structures(table: pd.DataFrame) -> None:
    # By hand: |errors| 1 and 3 eV of 2 and 10 atoms; the baseline's 0 and 2 eV.
    test = error_figures(table)["test"]
    assert test.structures == 2
    assert test.mae_ev == pytest.approx(2.0)
    assert test.mae_mev_per_atom == pytest.approx((500 + 300) / 2)
    assert test.rmse_ev == pytest.approx(5**0.5)
    assert test.baseline_mae_ev == pytest.approx(1.0)
    assert test.baseline_mae_mev_per_atom == pytest.approx(100.0)
    assert test.winner_is_better is False


def test_errors_of_forces_are_means_over_components(table: pd.DataFrame) -> None:
    # By hand: 0.1 and 0.4 eV/Å in structures of 2 and 10 atoms, so 0.35; a stress has 6 components
    # whatever the structure, and one is not known. Without columns there are no figures.
    of_test, errors = table["part"] == "test", table.copy()
    errors.loc[of_test, "forces_mae_ev_per_angstrom"] = [0.1, 0.4]
    errors.loc[of_test, "stress_mae_ev_per_cubic_angstrom"] = [0.02, np.nan]
    test = error_figures(errors)["test"]
    assert test.forces_mae_ev_per_angstrom == pytest.approx(0.35)
    assert test.stress_mae_ev_per_cubic_angstrom == pytest.approx(0.02)
    assert error_figures(errors)["validation"].forces_mae_ev_per_angstrom is None
    assert error_figures(table)["test"].forces_mae_ev_per_angstrom is None


def test_interval_is_students_and_never_below_zero(table: pd.DataFrame) -> None:
    # Two values 1 and 3: mean 2, standard error 1, t(0.975, 1) = 12.706.
    test = error_figures(table)["test"]
    assert test.interval_ev == (0.0, pytest.approx(14.706, abs=1e-3))
    assert test.gain_interval_ev == pytest.approx((-1, -1))


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    # 95 % of intervals from 30 structures hold the true mean absolute error, within 3 %.
    rng = np.random.default_rng(0)
    truth, hits = (2 / np.pi) ** 0.5, 0
    for _ in range(400):
        wrong = rng.normal(0, 1, 30)
        table = pd.DataFrame({"predicted_ev": wrong, "energy_ev": 0.0, "baseline_ev": 0.0})
        table = table.assign(part="test", structure=0, file="", index=0, formula="H", atoms=1)
        low, high = error_figures(table)["test"].interval_ev or (0, 0)
        hits += low < truth < high
    assert 0.92 < hits / 400 < 0.98


def test_one_structure_has_no_interval(table: pd.DataFrame) -> None:
    assert error_figures(table)["validation"].interval_ev is None


def test_without_a_winner_the_baseline_is_still_judged(table: pd.DataFrame) -> None:
    test = error_figures(table.assign(predicted_ev=np.nan))["test"]
    assert test.mae_ev is None
    assert test.winner_is_better is None
    assert test.baseline_mae_ev == pytest.approx(1.0)


def test_parts_without_structures_are_left_out(table: pd.DataFrame) -> None:
    assert list(error_figures(table[table["part"] != "validation"])) == ["train", "test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="formula"), "formula"),
        (lambda t: t.assign(part="tset"), "tset"),
        (lambda t: t.assign(energy_ev=np.nan), "energy_ev"),
        (lambda t: t.assign(predicted_ev=[np.nan, 0, 0, 0]), "predicted_ev"),
    ],
)
def test_wrong_tables_are_refused(
    table: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        error_figures(change(table))
