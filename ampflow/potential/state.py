"""Where a training stands after an epoch, and the file that keeps it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ampflow.digests import digest
from ampflow.files import atomic_path

__all__ = ["Epoch", "State", "load_state", "save_state"]

_log = logging.getLogger(__name__)
_SCHEMA = "1"
_VECTORS = ("weights", "first", "second", "best")


@dataclass(frozen=True)
class Epoch:
    """One pass over the train part.

    Parameters
    ----------
    number
        From 1.
    train_mae
        eV per structure, met on the way: each batch before the step made from it.
    validation_mae
        eV per structure, at the end of the epoch.
    lr
        Adam's learning rate in this epoch.
    seconds
        How long it took, validation included.
    """

    number: int
    train_mae: float
    validation_mae: float
    lr: float
    seconds: float


@dataclass
class State:
    """All that changes from epoch to epoch.

    Shuffling and dropout are drawn from the seed and the epoch's number, so they need no state.

    Parameters
    ----------
    weights, first, second
        (size,) the network's weights and Adam's two moments.
    best
        (size,) weights of the epoch with the least validation error.
    history
        The epochs done.
    """

    weights: NDArray[np.floating]
    first: NDArray[np.floating]
    second: NDArray[np.floating]
    best: NDArray[np.floating]
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def begin(cls, weights: NDArray[np.floating]) -> State:
        """Stand at the start, with these weights."""
        return cls(weights, np.zeros_like(weights), np.zeros_like(weights), weights.copy())

    @property
    def best_epoch(self) -> Epoch:
        """The epoch with the least validation error, the first of equals."""
        return min(self.history, key=lambda epoch: epoch.validation_mae)

    def add(self, epoch: Epoch) -> None:
        """Take note of an epoch that is done; keep its weights if it is the best."""
        self.history.append(epoch)
        if self.best_epoch is epoch:
            self.best[:] = self.weights


def save_state(state: State, path: Path, run: str) -> None:
    """Write `state` to one safetensors file, atomically.

    Parameters
    ----------
    run
        Digest of the training that the state belongs to.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    tensors = {name: getattr(state, name) for name in _VECTORS}
    history = json.dumps([list(vars(epoch).values()) for epoch in state.history])
    metadata = {"schema": _SCHEMA, "run": run, "history": history}
    metadata["content"] = _content(tensors, metadata)
    with atomic_path(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_state(path: Path, run: str) -> State | None:
    """Read the state of `run`; None where there is none that can be used.

    A damaged file, or one of another run, is passed over with a warning.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        _log.warning("%s: damaged checkpoint passed over (%s)", path, error)
        return None
    if metadata.get("content") != _content(tensors, metadata):
        _log.warning("%s: damaged checkpoint passed over (its digest does not fit)", path)
        return None
    if metadata["schema"] != _SCHEMA or metadata["run"] != run:
        _log.warning("%s: checkpoint of another training passed over", path)
        return None
    history = [Epoch(*row) for row in json.loads(metadata["history"])]
    return State(**tensors, history=history)


def _content(tensors: dict[str, NDArray[np.floating]], metadata: dict[str, str]) -> str:
    said = {name: metadata.get(name) for name in ("schema", "run", "history")}
    return digest(said, *(tensors[name] for name in sorted(tensors)))
