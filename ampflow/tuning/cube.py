"""Hyperparameters as points of the unit cube, equal shares of it for equal chances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

__all__ = ["from_cube", "to_cube"]


def from_cube(point: NDArray[np.float64], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the hyperparameters at `point`, (dimensions,) in [0, 1]."""
    pairs = zip(space.items(), point.tolist(), strict=True)
    return {name: _value(share, item) for (name, item), share in pairs}


def to_cube(
    params: Mapping[str, Any], space: Mapping[str, BaseDistribution]
) -> NDArray[np.float64]:
    """Return the point of `params`: the middle of the share of the cube that they have."""
    return np.array([_share(params[name], item) for name, item in space.items()])


def _value(share: float, item: BaseDistribution) -> Any:
    match item:
        case CategoricalDistribution():
            return item.choices[_bin(share, len(item.choices))]
        case IntDistribution(log=False) | FloatDistribution(step=float()):
            return item.low + _bin(share, _bins(item)) * _step(item)
        case IntDistribution():
            low, high = math.log(item.low - 0.5), math.log(item.high + 0.5)
            return min(item.high, max(item.low, round(math.exp(low + share * (high - low)))))
        case FloatDistribution(log=True):
            low, high = math.log(item.low), math.log(item.high)
            return min(item.high, max(item.low, math.exp(low + share * (high - low))))
        case FloatDistribution():
            return item.low + share * (item.high - item.low)
    raise TypeError(f"no rule for {type(item).__name__}")


def _share(value: Any, item: BaseDistribution) -> float:
    match item:
        case CategoricalDistribution():
            return float(item.choices.index(value) + 0.5) / len(item.choices)
        case IntDistribution(log=False) | FloatDistribution(step=float()):
            return float(round((value - item.low) / _step(item)) + 0.5) / _bins(item)
        case IntDistribution():
            low, high = math.log(item.low - 0.5), math.log(item.high + 0.5)
            return (math.log(value) - low) / (high - low)
        case FloatDistribution(log=True):
            low, high = math.log(item.low), math.log(item.high)
            return (math.log(value) - low) / (high - low)
        case FloatDistribution():
            return float((value - item.low) / (item.high - item.low))
    raise TypeError(f"no rule for {type(item).__name__}")


def _bin(share: float, bins: int) -> int:
    return min(int(share * bins), bins - 1)


def _step(item: IntDistribution | FloatDistribution) -> float:
    assert item.step is not None
    return item.step


def _bins(item: IntDistribution | FloatDistribution) -> int:
    return round((item.high - item.low) / _step(item)) + 1
