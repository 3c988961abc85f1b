"""The real objective: a potential trained on one part of a store and scored on another."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from ampflow.dataset import Structures
from ampflow.experiment import Training
from ampflow.potential.derivatives import load_parts
from ampflow.potential.state import Epoch, load_state
from ampflow.potential.training import Diverged, Trained, train
from ampflow.splits import Splits
from ampflow.store import FingerprintStore
from ampflow.tuning.results import TrainingFailed

__all__ = ["Potentials"]


class Potentials:
    """Trainings on the train part of a store, scored on its validation part.

    The parts are read at the first training, once a process.

    Parameters
    ----------
    store, split
        The fingerprint store, and the split of its structures.
    """

    def __init__(self, store: Path, split: Path) -> None:
        self._store, self._split = store, split

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
        fitted, scored = _parts(
            self._store, self._split, options.force_weight > 0, options.memory, options.device
        )
        try:
            return train(fitted, scored, options, seed, on_epoch=on_epoch, checkpoint=checkpoint)
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


@lru_cache(maxsize=2)
def _parts(
    store: Path, split: Path, forces: bool, memory: float, device: Literal["auto", "cpu", "cuda"]
) -> tuple[Structures, Structures]:
    parts = Splits.read(split)
    opened = FingerprintStore(store)
    options = Training(force_weight=float(forces), memory=memory, device=device)
    try:
        fitted, scored = load_parts(opened, [parts.train, parts.validation], options)
        return fitted, scored
    finally:
        opened.close()
