"""A fake trainer: no network, errors from a formula, a checkpoint, and a diary of its epochs."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ampflow.experiment import Training
from ampflow.tuning.results import TrainingFailed


@dataclass(frozen=True)
class FakeEpoch:
    number: int
    train_mae: float
    validation_mae: float
    seconds: float


@dataclass(frozen=True)
class FakeOutcome:
    history: list[FakeEpoch]
    best_epoch: int
    validation_mae: float


@dataclass(frozen=True)
class FakeTrainer:
    """Trains nothing.

    Parameters
    ----------
    diary
        File with a line for each epoch: process, training, number.
    delay
        Seconds an epoch.
    every
        Epochs between two checkpoints.
    diverges
        Learning rates above this diverge in the third epoch.
    seconds
        That an epoch is said to have taken.
    waits
        Number of the epoch before which each training waits for a file `go` beside the diary.
    """

    diary: Path
    delay: float = 0.0
    every: int = 1
    diverges: float = math.inf
    seconds: float = 0.5
    waits: int = 0

    @property
    def go(self) -> Path:
        return self.diary.with_name("go")

    def train(
        self,
        options: Training,
        seed: int,
        *,
        checkpoint: Path,
        on_epoch: Callable[[FakeEpoch], None],
    ) -> FakeOutcome:
        history = self.done(checkpoint)
        for number in range(len(history) + 1, options.epochs + 1):
            time.sleep(self.delay)
            while number == self.waits and not self.go.exists():
                time.sleep(0.01)
            if options.lr > self.diverges and number == 3:
                raise TrainingFailed("training diverged in epoch 3")
            history.append(FakeEpoch(number, 0.5, error(options, number), self.seconds))
            with self.diary.open("a") as stream:
                stream.write(f"{os.getpid()} {checkpoint.parent.name} {number}\n")
            try:
                on_epoch(history[-1])
            except BaseException:
                save(history, checkpoint)
                raise
            if number % self.every == 0:
                save(history, checkpoint)
        save(history, checkpoint)
        best = min(history, key=lambda epoch: epoch.validation_mae)
        return FakeOutcome(history, best.number, best.validation_mae)

    def done(self, checkpoint: Path) -> list[FakeEpoch]:
        if not checkpoint.is_file():
            return []
        return [FakeEpoch(**row) for row in json.loads(checkpoint.read_text())]

    def epochs(self) -> list[tuple[str, int]]:
        """Return training and number of each epoch that was trained."""
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        return [(name, int(number)) for _, name, number in map(str.split, lines)]


def error(options: Training, epoch: int) -> float:
    """Fall with the epochs, not evenly; how far depends on the options."""
    floor = abs(math.log10(options.lr) + 2) + (options.num_layers - 3) ** 2 / 10
    return floor + 1 / epoch + (0.3 if epoch % 3 == 0 else 0.0)


def save(history: list[FakeEpoch], checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    part = checkpoint.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps([asdict(epoch) for epoch in history]))
    part.replace(checkpoint)
