"""Where a training stands after an epoch, and the file that keeps it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.experiment import Training
from ampflow.files import atomic_path

__all__ = ["LBFGS_PAIRS", "Checkpoint", "Epoch", "State", "load_state", "save_state"]

_log = logging.getLogger(__name__)
_SCHEMA = "2"
_MEMORY = "memory."
LBFGS_PAIRS = 10  # steps that L-BFGS remembers


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
        Learning rate in this epoch.
    seconds
        How long it took, validation included.
    validation_force_mae
        eV/Å, of force components at the end of the epoch; None where forces are not trained on.
    validation_stress_mae
        eV/Å³, of stress components, likewise.
    """

    number: int
    train_mae: float
    validation_mae: float
    lr: float
    seconds: float
    validation_force_mae: float | None = None
    validation_stress_mae: float | None = None


@dataclass
class State:
    """All that changes from epoch to epoch.

    Shuffling and dropout are drawn from the seed and the epoch's number, so they need no state.

    Parameters
    ----------
    weights
        (size,) the network's.
    best
        (size,) those of the epoch with the least validation error.
    memory
        What the optimiser carries from step to step, by name: Adam's moments, the running average
        of the weights, L-BFGS's past steps.
    steps
        Steps that the optimiser has made.
    history
        The epochs done.
    """

    weights: NDArray[np.floating]
    best: NDArray[np.floating]
    memory: dict[str, NDArray[Any]]
    steps: int = 0
    history: list[Epoch] = field(default_factory=list)

    @classmethod
    def begin(cls, weights: NDArray[np.floating], options: Training) -> State:
        """Stand at the start, with these weights."""
        memory: dict[str, NDArray[Any]] = {}
        if options.optimizer == "lbfgs":
            shape = (LBFGS_PAIRS, len(weights))
            memory = {"moves": np.zeros(shape), "changes": np.zeros(shape)}
            memory["pairs"] = np.zeros(1, np.int64)
        else:
            memory = {name: np.zeros_like(weights) for name in ("first", "second")}
        memory["average"] = weights.copy() if options.ema_decay else weights[:0].copy()
        return cls(weights, weights.copy(), memory)

    @property
    def judged(self) -> NDArray[np.floating]:
        """The weights that are validated and kept: the running average, where there is one."""
        average = self.memory["average"]
        return average if len(average) else self.weights

    @property
    def best_epoch(self) -> Epoch:
        """The epoch with the least validation error, the first of equals."""
        return min(self.history, key=lambda epoch: epoch.validation_mae)

    def add(self, epoch: Epoch) -> None:
        """Take note of an epoch that is done; keep its weights if it is the best."""
        self.history.append(epoch)
        if self.best_epoch is epoch:
            self.best[:] = self.judged


class Checkpoint:
    """The file that keeps a training's state, written as often as the options say.

    Parameters
    ----------
    path
        None: nothing is kept.
    run
        Digest of the training.
    """

    def __init__(self, path: Path | None, run: str, options: Training) -> None:
        self._path, self._run, self._options = path, run, options
        self._saved, self._saved_epochs = time.monotonic(), 0

    def load(self) -> State | None:
        """Return what is kept of this training, if it can be used."""
        state = load_state(self._path, self._run) if self._path else None
        self._saved_epochs = len(state.history) if state else 0
        return state

    def tell(self, state: State, on_epoch: Callable[[Epoch], None] | None) -> None:
        """Say that an epoch is done; write the state if it is time to, or `on_epoch` raises."""
        try:
            if on_epoch is not None:
                on_epoch(state.history[-1])
        except BaseException:
            try:
                self.save(state)
            except StorageError as error:  # must not hide why the training ends
                _log.warning("checkpoint lost: %s", error)
            raise
        every, done = self._options.checkpoint_epochs, len(state.history)
        due = every and done - self._saved_epochs >= every
        if due or time.monotonic() - self._saved >= self._options.checkpoint_seconds:
            self.save(state)

    def save(self, state: State) -> None:
        """Write the state, if that was not done since its last epoch.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        if self._path is not None and len(state.history) > self._saved_epochs:
            save_state(state, self._path, self._run)
            self._saved, self._saved_epochs = time.monotonic(), len(state.history)


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
    tensors = {"weights": state.weights, "best": state.best}
    tensors |= {_MEMORY + name: value for name, value in state.memory.items()}
    history = json.dumps([list(vars(epoch).values()) for epoch in state.history])
    metadata = {"schema": _SCHEMA, "run": run, "history": history, "steps": str(state.steps)}
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
    weights, best = tensors.pop("weights"), tensors.pop("best")
    memory = {name.removeprefix(_MEMORY): value for name, value in tensors.items()}
    return State(weights, best, memory, int(metadata["steps"]), history)


def _content(tensors: dict[str, NDArray[np.floating]], metadata: dict[str, str]) -> str:
    said = {name: metadata.get(name) for name in ("schema", "run", "history", "steps")}
    return digest(said, *(tensors[name] for name in sorted(tensors)))
