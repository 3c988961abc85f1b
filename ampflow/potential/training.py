"""Training one network: epochs, the best of them, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Structures
from ampflow.digests import digest
from ampflow.errors import AmpflowError, DataError, OptionError
from ampflow.experiment import Training
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import Engine, Engines, Samples, StreamedSamples, samples
from ampflow.potential.fit import Fit
from ampflow.potential.lbfgs import advance
from ampflow.potential.network import Network
from ampflow.potential.references import make_references
from ampflow.potential.scaling import fit_scaler
from ampflow.potential.schedules import batch_ends, is_over, learning_rate
from ampflow.potential.shuffling import Window, shuffled
from ampflow.potential.state import Checkpoint, Epoch, State

__all__ = ["TRAINER_VERSION", "Diverged", "Epoch", "Fit", "Trained", "make_engine", "train"]

TRAINER_VERSION = 3
"""Rises whenever the same options, seed and data would train to another result."""

_EXPLODED = 1e3  # times the error at the start


class Diverged(AmpflowError):  # noqa: N818  # says what happened, like Optuna's TrialPruned
    """The error of a training became infinite, not a number, or absurdly large."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Parameters
    ----------
    fit
        With the weights of the best epoch.
    history
        All epochs.
    best_epoch
        Number of the epoch with the least validation error.
    validation_mae
        eV per structure, of that epoch.
    """

    fit: Fit
    history: list[Epoch]
    best_epoch: int
    validation_mae: float


def train(
    train: Structures,
    validation: Structures,
    options: Training,
    seed: int,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
    engines: Engines | None = None,
) -> Trained:
    """Train a network and keep the weights of its best epoch on `validation`.

    A training is judged by the mean absolute error per structure, whatever the loss. For a loss of
    forces or stresses both parts need `Dataset.derivatives`. References and scaling are fitted to
    `train` alone.

    Parameters
    ----------
    seed
        Of the first weights, the shuffling and dropout.
    on_epoch
        Called after each new epoch; whatever it raises ends the training, after the checkpoint
        was written.
    checkpoint
        File to continue from, if it exists, and to write to: as often as the options say, when
        `on_epoch` raises, and at the end. Continuing gives (on the CPU, bit for bit) what the
        training would have given without the stop.
    engines
        What does the arithmetic, `Stack.member` for instance; None: an engine of its own, on the
        device that the options ask for.

    Raises
    ------
    Diverged
        If the error is not finite, or a thousand times that of the start.
    DataError
        If a part has no structures, or lacks forces or stresses that are asked for, or
        `validation` has an element that `train` has not.
    OptionError
        If a GPU is asked for where there is none, or reference energies are missing.
    StorageError
        If the checkpoint cannot be written.
    """
    if options.backend == "amptorch":
        from ampflow.potential.amptorch import training as other

        return other.train(
            train, validation, options, seed, on_epoch=on_epoch, checkpoint=checkpoint
        )
    with ExitStack() as closing:
        run = _Run(train, validation, options, seed, checkpoint, engines, closing)
        while not run.is_over:
            run.advance()
            run.checkpoint.tell(run.state, on_epoch)
        return run.finish()


class _Run:
    """One training, between its first epoch and its last."""

    def __init__(
        self,
        train: Structures,
        validation: Structures,
        options: Training,
        seed: int,
        checkpoint: Path | None,
        engines: Engines | None,
        closing: ExitStack,
    ) -> None:
        if not len(train) or not len(validation):
            raise DataError(
                "training needs structures in the train and the validation part",
                "give both a share of the structures under [split]",
            )
        self._options, self._seed = options, seed
        self._references = make_references(train, options)
        residuals = train.energies - self._references.of(train)
        self._scaler = fit_scaler(train, residuals)
        self._network = Network.of(options, train.features, train.elements)
        rest = validation.energies - self._references.of(validation)
        made: Engines = engines or (lambda *parts: nullcontext(make_engine(*parts)))
        self._engine = closing.enter_context(
            made(
                self._network,
                samples(train, residuals, self._scaler, options),
                samples(validation, rest, self._scaler, options),
                options,
            )
        )
        self._sizes = train.atoms_per_structure
        self._limit = _EXPLODED * max(float(np.abs(residuals).mean()), self._scaler.energy)
        run = _digest(train, validation, options, seed) if checkpoint else ""
        self.checkpoint = Checkpoint(checkpoint, run, options)
        first = self._network.initial(seed).astype(options.precision)
        self.state = self.checkpoint.load() or State.begin(first, options)
        self._drawn: tuple[int, list[Window]] = 0, []

    @property
    def is_over(self) -> bool:
        """Whether the last epoch, or the last worth training, is done."""
        return is_over(self._options, self._errors)

    @property
    def _errors(self) -> list[float]:
        return [epoch.validation_mae for epoch in self.state.history]

    def advance(self) -> None:
        """Train the next epoch."""
        start = time.perf_counter()
        number, unit = len(self.state.history) + 1, self._scaler.energy
        lr = learning_rate(self._options, self._errors)
        train_mae = unit * self._learn(number, lr)
        errors = [unit * error for error in self._engine.errors(self.state.judged)]
        validation_mae, *others = errors
        for part, mae in (("train", train_mae), ("validation", validation_mae)):
            if not mae <= self._limit:  # also when it is not a number
                raise Diverged(
                    f"training diverged in epoch {number}: {part} error {mae:.3g} eV per structure",
                    "lower the learning rate (lr)",
                )
        known = [None if math.isnan(error) else error for error in others]
        epoch = Epoch(number, train_mae, validation_mae, lr, time.perf_counter() - start, *known)
        self.state.add(epoch)

    def _learn(self, number: int, lr: float) -> float:
        options = self._options
        if options.optimizer == "lbfgs":
            key = self._windows(number)[0].key
            return advance(self.state, lambda x: self._engine.gradient(x, key), options.ema_decay)
        windows = self._expected(number)
        if number < options.epochs:  # read ahead while this one ends and is judged
            self._expected(number + 1)
        total = 0.0
        for order, key in windows:
            ends = batch_ends(self._sizes[order], options)
            total += len(order) * self._engine.epoch(self.state, order, ends, lr, key)
        return total / len(self._sizes)

    def _expected(self, number: int) -> list[Window]:
        """Draw the order of an epoch, and let the engine hear of it, if that is not done yet."""
        if self._drawn[0] != number:
            self._drawn = number, self._windows(number)
            self._engine.expect([window.order for window in self._drawn[1]])
        return self._drawn[1]

    def _windows(self, number: int) -> list[Window]:
        """Draw the order of an epoch."""
        batch = self._options.batch_size
        if self._options.batch_unit == "atoms":
            batch = int(batch / self._sizes.mean())
        random = np.random.default_rng([self._seed, number])
        return shuffled(random, self._sizes, self._network.features, batch)

    def finish(self) -> Trained:
        """Return the result, having written the checkpoint."""
        self.checkpoint.save(self.state)
        best = self.state.best_epoch
        weights: NDArray[np.float64] = self.state.best.astype(np.float64)
        fit = Fit(self._references, self._scaler, self._network, weights)
        return Trained(fit, self.state.history, best.number, best.validation_mae)


def make_engine(
    network: Network,
    train: Samples | StreamedSamples,
    validation: Samples | StreamedSamples,
    options: Training,
) -> Engine:
    """Return the engine for the device that the options ask for."""
    if options.device != "cuda":
        return CpuEngine(network, train, validation, options)
    import torch  # 2 s, which only a GPU is worth

    from ampflow.potential.torch_engine import TorchEngine

    if not torch.cuda.is_available():
        raise OptionError(
            'training.device = "cuda", but torch finds no GPU here', 'set it to "auto" or "cpu"'
        )
    assert isinstance(train, Samples)
    assert isinstance(validation, Samples)
    return TorchEngine(network, train, validation, options, "cuda")


def _digest(train: Structures, validation: Structures, options: Training, seed: int) -> str:
    """Name a training by all that its result depends on."""
    arrays: list[NDArray[Any]] = []
    if options.differentiates:
        parts = [part for part in (train, validation) if isinstance(part, Dataset)]
        labels = [label for part in parts for label in (part.forces, part.stresses)]
        arrays += [label for label in labels if label is not None]
        arrays += [p.derivatives.moved for p in parts if p.derivatives is not None]
    names = train.summary.digest, validation.summary.digest
    return digest(TRAINER_VERSION, options.decisive(), seed, *names, *arrays)
