"""L-BFGS: one step an epoch, from the gradient over the whole train part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ampflow.potential.engine import averaging
from ampflow.potential.state import LBFGS_PAIRS, State

__all__ = ["advance"]

Vector = NDArray[np.float64]
Evaluate = Callable[[NDArray[np.floating]], tuple[float, float, Vector]]

_HALVINGS = 20


def advance(state: State, evaluate: Evaluate, ema_decay: float = 0.0) -> float:
    """Make one step, and return the mean absolute error before it.

    The step's length satisfies the strong Wolfe conditions; where none does (a loss with kinks,
    or rounding), it is halved until the loss falls, and where it does not fall, past steps are
    forgotten and the weights stay.

    Parameters
    ----------
    evaluate
        Gives mean absolute error, loss and gradient at some weights.
    ema_decay
        Of the running average of the weights, where `state` has one.

    Notes
    -----
    Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 3.5.
    """
    function = _Remembered(evaluate, state.weights)
    start = state.weights.astype(np.float64)
    error, loss, gradient = function(start)
    direction = -_approximate(state, gradient)
    length = _length(function, start, direction, loss, gradient)
    state.steps += 1
    if length:
        state.weights[:] = start + length * direction
        end = state.weights.astype(np.float64)
        _remember(state, end - start, function(end)[2] - gradient)
    else:
        state.memory["pairs"][0] = 0
    if len(average := state.memory["average"]):
        average += (1 - averaging(ema_decay, state.steps)) * (state.weights - average)
    return error


class _Remembered:
    """The loss in the network's precision; its last values are not computed again."""

    def __init__(self, evaluate: Evaluate, weights: NDArray[np.floating]) -> None:
        self._evaluate, self._dtype = evaluate, weights.dtype
        self._known: dict[bytes, tuple[float, float, Vector]] = {}

    def __call__(self, weights: Vector) -> tuple[float, float, Vector]:
        rounded = weights.astype(self._dtype)
        key = rounded.tobytes()
        if key not in self._known:
            self._known[key] = self._evaluate(rounded)
        return self._known[key]

    def loss(self, weights: Vector) -> float:
        return self(weights)[1]

    def gradient(self, weights: Vector) -> Vector:
        return self(weights)[2]


def _approximate(state: State, gradient: Vector) -> Vector:
    """Multiply the gradient by the inverse Hessian that past steps suggest."""
    count = int(state.memory["pairs"][0])
    pairs = list(zip(state.memory["moves"], state.memory["changes"], strict=True))[-count:]
    if not count:
        return gradient * min(1.0, 1 / max(float(np.abs(gradient).sum()), 1e-300))
    result, factors = gradient.copy(), []
    for move, change in reversed(pairs):
        factors.append(move @ result / (move @ change))
        result -= factors[-1] * change
    move, change = pairs[-1]
    result *= move @ change / (change @ change)
    for (move, change), factor in zip(pairs, reversed(factors), strict=True):
        result += move * (factor - change @ result / (move @ change))
    return result


def _length(
    function: _Remembered, start: Vector, direction: Vector, loss: float, gradient: Vector
) -> float:
    from scipy.optimize import line_search  # takes long to import

    found = line_search(
        function.loss, function.gradient, start, direction, gradient, loss, maxiter=10
    )[0]
    if found is not None and np.isfinite(found):
        return float(found)
    slope = float(gradient @ direction)
    for halvings in range(_HALVINGS):
        length = 0.5**halvings
        if function.loss(start + length * direction) < loss + 1e-4 * length * slope:
            return length
    return 0.0


def _remember(state: State, move: Vector, change: Vector) -> None:
    """Keep a step as the last row, unless the loss curves the wrong way along it."""
    if move @ change <= 1e-10 * np.linalg.norm(move) * np.linalg.norm(change):
        return
    for name, row in (("moves", move), ("changes", change)):
        rows = state.memory[name]
        rows[:-1] = rows[1:]
        rows[-1] = row
    count = state.memory["pairs"]
    count[0] = min(count[0] + 1, LBFGS_PAIRS)
