"""The contour of the validation error over two searched options."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from ampflow.reports.search_figures import describe_trial
from ampflow.reports.style import ACCENT, SCALE, Plot, escape, new_figure
from ampflow.reports.trials import complete_trials, varying_parameters

__all__ = ["contour"]

_GRID = 100  # points along an axis
_RIM = {"color": "white", "width": 1.5}
_COLORS = {"colorscale": SCALE, "reversescale": True}


def contour(trials: Sequence[FrozenTrial], names: Sequence[str]) -> Plot:
    """Plot the values over two searched options, with the trials as points.

    Between the trials the surface is interpolated linearly, on logarithmic axes where the
    search was; beyond them it is left blank.

    Parameters
    ----------
    trials
        Of the study.
    names
        Options by falling importance; the first two that vary are shown.
    """
    done = complete_trials(trials)
    varying = [name for name in names if name in varying_parameters(done)]
    if len(varying) < 2:
        return "Fewer than two options varied among the complete trials."
    done = [trial for trial in done if varying[0] in trial.params and varying[1] in trial.params]
    if any(len({trial.params[name] for trial in done}) < 2 for name in varying[:2]):
        return f"Too few complete trials have both {varying[0]} and {varying[1]}."
    x, y = (_Axis(done, name) for name in varying[:2])
    values = np.array([trial.value for trial in done], dtype=np.float64)
    # A few diverged trials must not use up the colour scale.
    top = float(np.quantile(values, 0.9)) if len(values) >= 10 else float(values.max())
    figure = new_figure(height=440, showlegend=False)
    figure.update_layout(xaxis=x.layout(), yaxis=y.layout())
    _add_surface(figure, x, y, np.minimum(values, top))
    colors = {"color": values, "cmin": float(values.min()), "cmax": top}
    bar = {
        "title": {"text": "MAE (eV)", "font": {"size": 13}},
        "tickformat": "~g",
        "outlinewidth": 0,
    }
    figure.add_scatter(
        x=x.at,
        y=y.at,
        mode="markers",
        marker={"size": 9, "line": _RIM, "colorbar": bar, **_COLORS, **colors},
        hovertext=[describe_trial(trial) for trial in done],
        hovertemplate="%{hovertext}<br>%{marker.color:.3g} eV<extra></extra>",
    )
    best = [int(values.argmin())]
    star = {"symbol": "star", "size": 16, "color": ACCENT, "line": _RIM}
    figure.add_scatter(x=x.at[best], y=y.at[best], mode="markers", marker=star, hoverinfo="skip")
    return figure


class _Axis:
    """One searched option as coordinates: logarithms, plain numbers, or places of choices."""

    def __init__(self, trials: Sequence[FrozenTrial], name: str) -> None:
        self.name = name
        kind = trials[0].distributions[name]
        values = [trial.params[name] for trial in trials]
        self.choices: list[object] = []
        if isinstance(kind, CategoricalDistribution):
            self.choices = list(kind.choices)
            values = [self.choices.index(value) for value in values]
        self.at: NDArray[np.float64] = np.array(values, dtype=np.float64)
        self.log = isinstance(kind, FloatDistribution | IntDistribution) and kind.log
        if self.log:
            self.at = np.log10(self.at)

    def unit(self) -> NDArray[np.float64]:
        """Return the coordinates scaled to 0 ... 1."""
        scaled: NDArray[np.float64] = (self.at - self.at.min()) / np.ptp(self.at)
        return scaled

    def grid(self) -> NDArray[np.float64]:
        """Return the coordinates of the surface."""
        return np.linspace(self.at.min(), self.at.max(), _GRID)

    def layout(self) -> dict[str, object]:
        """Return the axis as Plotly wants it, in the units of the option."""
        title = {"text": escape(self.name)}
        margin = 0.06 * float(np.ptp(self.at))
        span = [float(self.at.min()) - margin, float(self.at.max()) + margin]
        axis: dict[str, object] = {"title": title, "range": span, "showgrid": False}
        if self.choices:
            places = list(range(len(self.choices)))
            return axis | {"tickvals": places, "ticktext": [escape(c) for c in self.choices]}
        if self.log:
            ticks = _log_ticks(*span)
            return axis | {
                "tickvals": [math.log10(tick) for tick in ticks],
                "ticktext": [f"{tick:g}" for tick in ticks],
            }
        return axis


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, ... between two powers of ten; only powers over three decades."""
    digits = (1, 2, 5) if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _add_surface(figure: go.Figure, x: _Axis, y: _Axis, values: NDArray[np.float64]) -> None:
    """Draw the interpolated values, unless all points lie on one line."""
    from scipy.interpolate import griddata  # half a second to import: not for every command

    points = np.column_stack([x.unit(), y.unit()])
    places, inverse = np.unique(points, axis=0, return_inverse=True)
    if len(places) < 4 or np.linalg.matrix_rank(places - places[0], tol=1e-6) < 2:
        return
    best = np.full(len(places), np.inf)
    np.minimum.at(best, inverse, values)  # several trials at one place: the best of them
    line = np.linspace(0, 1, _GRID)
    figure.add_contour(
        x=x.grid(),
        y=y.grid(),
        z=griddata(places, best, tuple(np.meshgrid(line, line))),
        zmin=float(values.min()),
        zmax=float(values.max()),
        ncontours=15,
        line={"width": 0.5, "color": "white"},
        showscale=False,
        hoverinfo="skip",
        **_COLORS,
    )
