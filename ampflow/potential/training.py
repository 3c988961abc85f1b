"""Training one network: epochs, the best of them, checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ampflow.dataset import Dataset
from ampflow.digests import digest
from ampflow.errors import AmpflowError, DataError, OptionError, StorageError
from ampflow.experiment import Training
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import Engine, Samples, samples
from ampflow.potential.fit import Fit
from ampflow.potential.network import Network
from ampflow.potential.references import fit_references
from ampflow.potential.scaling import fit_scaler
from ampflow.potential.state import Epoch, State, load_state, save_state

__all__ = ["TRAINER_VERSION", "Diverged", "Epoch", "Fit", "Trained", "train"]

TRAINER_VERSION = 1
"""Rises whenever the same options, seed and data would train to another result."""

_EXPLODED = 1e3  # times the error at the start
_log = logging.getLogger(__name__)


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
    train: Dataset,
    validation: Dataset,
    options: Training,
    seed: int,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
) -> Trained:
    """Train a network and keep the weights of its best epoch on `validation`.

    The loss is the mean absolute error per structure: what a training is judged by. References
    and scaling are fitted to `train` alone.

    Parameters
    ----------
    seed
        Of the first weights, the shuffling and dropout.
    on_epoch
        Called after each new epoch; whatever it raises ends the training, after the checkpoint
        was written.
    checkpoint
        File to continue from, if it exists, and to write to: every `checkpoint_seconds`, when
        `on_epoch` raises, and at the end. Continuing gives (on the CPU, bit for bit) what the
        training would have given without the stop.

    Raises
    ------
    Diverged
        If the error is not finite, or a thousand times that of the start.
    DataError
        If a part has no structures, or `validation` has an element that `train` has not.
    OptionError
        If a GPU is asked for where there is none.
    StorageError
        If the checkpoint cannot be written.
    """
    run = _Run(train, validation, options, seed, checkpoint)
    saved = time.monotonic()
    for number in range(len(run.state.history) + 1, options.epochs + 1):
        epoch = run.advance(number)
        if on_epoch is not None:
            try:
                on_epoch(epoch)
            except BaseException:
                run.save_before_raising()
                raise
        if time.monotonic() - saved >= checkpoint_seconds and number < options.epochs:
            run.save()
            saved = time.monotonic()
    return run.finish()


class _Run:
    """One training, between its first epoch and its last."""

    def __init__(
        self,
        train: Dataset,
        validation: Dataset,
        options: Training,
        seed: int,
        checkpoint: Path | None,
    ) -> None:
        if not len(train) or not len(validation):
            raise DataError(
                "training needs structures in the train and the validation part",
                "give both a share of the structures under [split]",
            )
        self._options, self._seed, self._checkpoint = options, seed, checkpoint
        self._references = fit_references(train)
        residuals = train.energies - self._references.of(train)
        self._scaler = fit_scaler(train, residuals)
        self._network = Network.of(options, train.fingerprints.shape[1])
        rest = validation.energies - self._references.of(validation)
        self._engine = _engine(
            self._network,
            samples(train, residuals, self._scaler, options.precision),
            samples(validation, rest, self._scaler, options.precision),
            options,
        )
        self._structures = len(train)
        self._limit = _EXPLODED * max(float(np.abs(residuals).mean()), self._scaler.energy)
        self._run = _digest(train, validation, options, seed) if checkpoint else ""
        stored = load_state(checkpoint, self._run) if checkpoint else None
        self.state = stored or State.begin(self._network.initial(seed).astype(options.precision))
        self._was_complete = len(self.state.history) == options.epochs

    def advance(self, number: int) -> Epoch:
        """Train epoch `number`."""
        start = time.perf_counter()
        options, unit = self._options, self._scaler.energy
        lr = options.lr * options.gamma ** ((number - 1) // options.step_size)
        random = np.random.default_rng([self._seed, number])
        order = random.permutation(self._structures)
        key = int(random.integers(2**63))
        train_mae = unit * self._engine.epoch(self.state, order, lr, key)
        validation_mae = unit * self._engine.error(self.state.weights)
        for part, mae in (("train", train_mae), ("validation", validation_mae)):
            if not mae <= self._limit:  # also when it is not a number
                raise Diverged(
                    f"training diverged in epoch {number}: {part} error {mae:.3g} eV per structure",
                    "lower the learning rate (lr)",
                )
        epoch = Epoch(number, train_mae, validation_mae, lr, time.perf_counter() - start)
        self.state.add(epoch)
        return epoch

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self._checkpoint is not None:
            save_state(self.state, self._checkpoint, self._run)

    def save_before_raising(self) -> None:
        """Write the checkpoint; a failure must not hide why the training ends."""
        try:
            self.save()
        except StorageError as error:
            _log.warning("checkpoint lost: %s", error)

    def finish(self) -> Trained:
        """Return the result, having written the checkpoint."""
        if not self._was_complete:
            self.save()
        best = self.state.best_epoch
        weights: NDArray[np.float64] = self.state.best.astype(np.float64)
        fit = Fit(self._references, self._scaler, self._network, weights)
        return Trained(fit, self.state.history, best.number, best.validation_mae)


def _engine(network: Network, train: Samples, validation: Samples, options: Training) -> Engine:
    """Return the engine for the device that the options ask for."""
    if options.device != "cuda":
        return CpuEngine(network, train, validation, options)
    import torch  # 2 s, which only a GPU is worth

    from ampflow.potential.torch_engine import TorchEngine

    if not torch.cuda.is_available():
        raise OptionError(
            'training.device = "cuda", but torch finds no GPU here', 'set it to "auto" or "cpu"'
        )
    return TorchEngine(network, train, validation, options, "cuda")


def _digest(train: Dataset, validation: Dataset, options: Training, seed: int) -> str:
    """Name a training by all that its result depends on."""
    parts = (train, validation)
    arrays = [a for p in parts for a in (p.fingerprints, p.numbers, p.offsets, p.energies)]
    return digest(TRAINER_VERSION, options.model_dump(mode="json"), seed, *arrays)
