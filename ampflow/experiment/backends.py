"""What AMPTorch does not have, of the options of [training]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["refuse_for_amptorch"]

_LACKS: dict[str, Callable[[Any], bool]] = {
    "network": lambda value: value == "per-element",
    "batch_unit": lambda value: value == "atoms",
    "loss": lambda value: value == "huber",
    "optimizer": lambda value: value == "lbfgs",
    "force_weight": lambda value: value > 0,
    "stress_weight": lambda value: value > 0,
    "clip": lambda value: value > 0,
    "ema_decay": lambda value: value > 0,
    "device": lambda value: value == "cuda",
}


def refuse_for_amptorch(options: Mapping[str, list[Any]]) -> None:
    """Refuse options that AMPTorch lacks, or that we do not pass on to it.

    Parameters
    ----------
    options
        The values that each option may have; a range has its ends.

    Raises
    ------
    ValueError
        If one of them cannot be had.
    """
    wrong = [
        f"{name} = {value!r}"
        for name, lacks in _LACKS.items()
        for value in options.get(name, [])
        if lacks(value)
    ]
    if wrong:
        raise ValueError(
            f'not with backend = "amptorch": {", ".join(wrong)}; leave it out, or set '
            'backend = "ampflow"'
        )
