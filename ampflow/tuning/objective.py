"""The real objective: a potential trained on one part of a store and scored on another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from ampflow.dataset import Structures
from ampflow.experiment import Choices, Training
from ampflow.potential.derivatives import load_parts
from ampflow.potential.engine import Engines
from ampflow.potential.stack import Capacity, Stack
from ampflow.potential.state import Epoch, load_state
from ampflow.potential.training import Diverged, Trained, train
from ampflow.splits import Splits
from ampflow.store import FingerprintStore
from ampflow.tuning.results import TrainingFailed
from ampflow.tuning.space import highest
from ampflow.tuning.spec import StudySpec

__all__ = ["Potentials", "make_potentials"]

_reading = threading.Lock()


class Potentials:
    """Trainings on the train part of a store, scored on its validation part.

    The parts are read at the first training, once a process.

    Parameters
    ----------
    store, split
        The fingerprint store, and the split of its structures.
    engines
        As for `ampflow.potential.training.train`.
    """

    def __init__(self, store: Path, split: Path, engines: Engines | None = None) -> None:
        self._store, self._split, self._engines = store, split, engines

    def train(
        self,
        options: Training,
        seed: int,
        *,
        checkpoint: Path,
        on_epoch: Callable[[Epoch], None],
    ) -> Trained:
        """Train one potential; see `ampflow.potential.training.train`.

        Raises
        ------
        TrainingFailed
            If the training diverges.
        """
        with _reading:  # once, for all who train at once
            fitted, scored = _parts(
                self._store,
                self._split,
                options.force_weight > 0,
                options.stress_weight > 0,
                options.memory,
                options.device,
            )
        try:
            return train(
                fitted, scored, options, seed,
                on_epoch=on_epoch, checkpoint=checkpoint, engines=self._engines,
            )  # fmt: skip
        except Diverged as error:
            raise TrainingFailed(error.what) from error

    def done(self, checkpoint: Path) -> list[Epoch]:
        """Return the epochs in a checkpoint; none if it is absent or damaged."""
        if not checkpoint.is_file():
            return []
        try:
            with safe_open(checkpoint, framework="numpy") as stored:
                run = (stored.metadata() or {}).get("run", "")
        except (SafetensorError, OSError):
            return []
        state = load_state(checkpoint, run)
        return state.history if state else []


def make_potentials(spec: StudySpec) -> Callable[[Path], Potentials]:
    """Return what makes the objective on a store: one stack of trainings for all of them."""
    space, training, slots = spec.tuning.space, spec.training, spec.tuning.stack
    if slots == 1:
        return lambda store: Potentials(store, spec.split)
    chosen = space.get("activation")
    kinds = chosen.choices if isinstance(chosen, Choices) else [training.activation]
    capacity = Capacity(
        slots=slots,
        layers=int(highest("num_layers", space, training)),
        nodes=int(highest("num_nodes", space, training)),
        activations=tuple(str(kind) for kind in kinds),
        dropout=highest("dropout_rate", space, training) > 0,
    )
    engines = Stack(capacity).member
    return lambda store: Potentials(store, spec.split, engines)


@lru_cache(maxsize=2)
def _parts(
    store: Path,
    split: Path,
    forces: bool,
    stresses: bool,
    memory: float,
    device: Literal["auto", "cpu", "cuda"],
) -> tuple[Structures, Structures]:
    parts = Splits.read(split)
    opened = FingerprintStore(store)
    options = Training(
        force_weight=float(forces), stress_weight=float(stresses), memory=memory, device=device
    )
    try:
        fitted, scored = load_parts(opened, [parts.train, parts.validation], options)
        return fitted, scored
    finally:
        opened.close()
