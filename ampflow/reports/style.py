"""How every figure looks: one template, a palette that colour-blind readers can tell apart."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

__all__ = [
    "ACCENT",
    "GREY",
    "MUTED",
    "SCALE",
    "WINNER",
    "Plot",
    "escape",
    "mae_axis",
    "new_figure",
]

Plot = go.Figure | str
"""A figure, or in a sentence why there is none."""

# Okabe and Ito's colours; cividis for scales: both made for every kind of colour vision.
WINNER = "#0072B2"
ACCENT = "#D55E00"
GREY = "#8a8f98"
MUTED = "#c3c7ce"
SCALE = "Cividis"

_INK = "#1f2430"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS = {
    "showline": True,
    "linecolor": "#b9bec7",
    "gridcolor": "#eceef1",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#b9bec7",
    "ticklen": 4,
    "automargin": True,
    "title": {"standoff": 10, "font": {"size": 13}},
}

_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 24, "t": 44, "b": 56},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#b9bec7", "font": {"family": _FONT}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
    }
)


def new_figure(height: int = 380, **layout: Any) -> go.Figure:
    """Return an empty figure in the report's style; its height in pixels."""
    return go.Figure(layout={"template": _TEMPLATE, "height": height, **layout})


def escape(text: object) -> str:
    """Make text safe in hover boxes and labels, which Plotly reads as simple HTML."""
    return html.escape(str(text))


def mae_axis(values: Iterable[float | None], title: str) -> dict[str, Any]:
    """Return an axis for errors, logarithmic where they span more than a factor of 5."""
    known = [value for value in values if value is not None and value > 0]
    decades = math.log10(max(known) / min(known)) if known else 0.0
    axis: dict[str, Any] = {"title": {"text": title}, "tickformat": "~g"}
    if decades > math.log10(5):
        axis |= {"type": "log", "dtick": "D2" if decades < 2.5 else 1}
    return axis
