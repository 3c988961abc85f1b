"""How wrong the winner and the linear reference are: the only place where errors are computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit  # scipy.stats, which has it too, imports for a second

__all__ = ["COLUMNS", "DERIVATIVES", "PARTS", "Interval", "PartErrors", "error_figures"]

PARTS = ("train", "validation", "test")

COLUMNS = (
    "part",  # one of PARTS
    "structure",  # number of the structure in the data set
    "file",
    "index",  # of the structure in its file
    "formula",
    "atoms",
    "energy_ev",
    "predicted_ev",  # the winner's; all NaN where there is no winner
    "baseline_ev",  # the linear reference's
)

DERIVATIVES = (  # means over a structure's components, where the winner was trained on them
    "forces_mae_ev_per_angstrom",
    "forces_size_ev_per_angstrom",  # of the given ones: the error of predicting none
    "stress_mae_ev_per_cubic_angstrom",
    "stress_size_ev_per_cubic_angstrom",
)

Interval = tuple[float, float]


class PartErrors(BaseModel):
    """Errors on one part. Without a winner its figures are None.

    Intervals are 95 % intervals of a mean by Student's t: honest for a handful of structures,
    approximate because absolute errors are not normally distributed. The gain is the
    baseline's absolute error minus the winner's, structure by structure. Forces and stresses have
    figures where the winner was trained on them: means over all components.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: int
    mae_ev: float | None
    mae_mev_per_atom: float | None
    rmse_ev: float | None
    interval_ev: Interval | None
    baseline_mae_ev: float
    baseline_mae_mev_per_atom: float
    baseline_rmse_ev: float
    gain_interval_ev: Interval | None
    forces_mae_ev_per_angstrom: float | None = None
    forces_size_ev_per_angstrom: float | None = None
    stress_mae_ev_per_cubic_angstrom: float | None = None
    stress_size_ev_per_cubic_angstrom: float | None = None

    @property
    def winner_is_better(self) -> bool | None:
        """Whether the winner's MAE in eV per structure is below the baseline's."""
        return None if self.mae_ev is None else self.mae_ev < self.baseline_mae_ev


def error_figures(predictions: pd.DataFrame) -> dict[str, PartErrors]:
    """Compute the errors of every part that has structures.

    Parameters
    ----------
    predictions
        One row a structure, with `COLUMNS` and maybe `DERIVATIVES`.

    Raises
    ------
    ValueError
        If a column is missing, a part unknown, or a number that must be finite is not.
    """
    _check(predictions)
    return {
        part: _part_errors(rows)
        for part in PARTS
        if len(rows := predictions[predictions["part"] == part])
    }


def _check(predictions: pd.DataFrame) -> None:
    if missing := set(COLUMNS) - set(predictions.columns):
        raise ValueError(f"predictions: columns missing: {sorted(missing)}")
    if unknown := set(predictions["part"]) - set(PARTS):
        raise ValueError(f"predictions: no such part: {sorted(unknown)}")
    for column in ("energy_ev", "baseline_ev"):
        if not np.isfinite(_values(predictions, column)).all():
            raise ValueError(f"predictions: {column} is not finite everywhere")
    predicted = _values(predictions, "predicted_ev")
    if not (np.isfinite(predicted).all() or np.isnan(predicted).all()):
        raise ValueError("predictions: predicted_ev must be finite everywhere, or NaN everywhere")


def _values(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return rows[column].to_numpy(dtype=np.float64)


def _part_errors(rows: pd.DataFrame) -> PartErrors:
    atoms, energies = _values(rows, "atoms"), _values(rows, "energy_ev")
    wrong = np.abs(_values(rows, "predicted_ev") - energies)
    baseline = np.abs(_values(rows, "baseline_ev") - energies)
    has_winner = bool(np.isfinite(wrong).all())
    return PartErrors(
        structures=len(rows),
        mae_ev=float(wrong.mean()) if has_winner else None,
        mae_mev_per_atom=float((wrong / atoms).mean() * 1000) if has_winner else None,
        rmse_ev=float(np.sqrt((wrong**2).mean())) if has_winner else None,
        interval_ev=_mean_interval(wrong, floor=0.0) if has_winner else None,
        baseline_mae_ev=float(baseline.mean()),
        baseline_mae_mev_per_atom=float((baseline / atoms).mean() * 1000),
        baseline_rmse_ev=float(np.sqrt((baseline**2).mean())),
        gain_interval_ev=_mean_interval(baseline - wrong) if has_winner else None,
        **{name: _mean_of_components(rows, name) for name in DERIVATIVES if name in rows},
    )


def _mean_of_components(rows: pd.DataFrame, name: str) -> float | None:
    known = rows[rows[name].notna()]
    if known.empty:
        return None
    weights = _values(known, "atoms") if name.startswith("forces") else None
    return float(np.average(_values(known, name), weights=weights))


def _mean_interval(values: NDArray[np.float64], floor: float = -np.inf) -> Interval | None:
    """Return the 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return max(mean - half, floor), mean + half
