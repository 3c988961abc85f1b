"""Learning rates and batches: pure functions of the options and of what has happened."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ampflow.experiment import Training

__all__ = ["batch_ends", "is_over", "learning_rate"]

_RISE, _START, _END = 0.3, 1 / 25, 1e-4 / 25  # one-cycle, as torch has it


def learning_rate(options: Training, errors: Sequence[float]) -> float:
    """Return the learning rate of the next epoch.

    Parameters
    ----------
    errors
        Validation errors of the epochs done: the plateau schedule needs no other memory.
    """
    done = len(errors)
    if options.schedule == "step":
        return options.lr * options.gamma ** (done // options.step_size)
    if options.schedule == "cosine":
        return options.lr * _between(1.0, 0.0, done / options.epochs)
    if options.schedule == "one-cycle":
        peak = max(_RISE * options.epochs - 1, 0.0)
        if done < peak:
            return options.lr * _between(_START, 1.0, done / peak)
        return options.lr * _between(1.0, _END, (done - peak) / max(options.epochs - 1 - peak, 1.0))
    return options.lr * options.gamma ** _plateaus(errors, options.step_size)


def _between(start: float, end: float, place: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2


def _plateaus(errors: Sequence[float], length: int) -> int:
    best, waited, found = math.inf, 0, 0
    for error in errors:
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == length:
            waited, found = 0, found + 1
    return found


def is_over(options: Training, errors: Sequence[float]) -> bool:
    """Tell whether no epoch is to follow, given the validation errors of those done."""
    if len(errors) >= options.epochs:
        return True
    if not options.patience or not errors:
        return False
    return len(errors) - 1 - int(np.argmin(errors)) >= options.patience


def batch_ends(sizes: NDArray[np.int64], options: Training) -> NDArray[np.int64]:
    """Return where each batch ends, in structures.

    Parameters
    ----------
    sizes
        (structures,) atoms of each structure, in the order of the epoch.
    """
    count = len(sizes)
    if options.batch_unit == "structures":
        return np.append(np.arange(options.batch_size, count, options.batch_size), count)
    after = np.cumsum(sizes)
    ends = [0]
    while ends[-1] < count:
        limit = options.batch_size + (after[ends[-1] - 1] if ends[-1] else 0)
        ends.append(max(ends[-1] + 1, int(np.searchsorted(after, limit, side="right"))))
    return np.array(ends[1:])
