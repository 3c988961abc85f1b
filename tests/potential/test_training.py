from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ampflow.dataset import Dataset
from ampflow.errors import DataError
from ampflow.experiment import Training
from ampflow.potential.training import Diverged, Epoch, Trained, train

Make = Callable[..., Dataset]

OPTIONS = Training(num_layers=2, num_nodes=6, epochs=8, batch_size=7, dropout_rate=0.1, step_size=3)


class Stop(BaseException):
    pass


class StopAt:
    """Raises at one epoch and remembers the epochs it was told of."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen: list[int] = []

    def __call__(self, epoch: Epoch) -> None:
        self.seen.append(epoch.number)
        if epoch.number == self.number:
            raise Stop


def _same(one: Trained, other: Trained) -> None:
    np.testing.assert_array_equal(one.fit.weights, other.fit.weights)
    assert [replace(e, seconds=0) for e in one.history] == [
        replace(e, seconds=0) for e in other.history
    ]
    assert one.best_epoch == other.best_epoch
    assert one.validation_mae == other.validation_mae


@pytest.fixture(scope="module")
def parts(make: Make) -> tuple[Dataset, Dataset]:
    return make(40, seed=1), make(12, seed=2)


# Training lowers the error below that of the reference energies, and predicts what it scored.
def test_learns(make: Make) -> None:
    data, validation = make(300, seed=1), make(50, seed=2)
    options = Training(num_layers=2, num_nodes=16, epochs=60, batch_size=16)
    trained = train(data, validation, options, seed=0)
    error = np.abs(trained.fit.predict(validation) - validation.energies).mean()
    baseline = np.abs(trained.fit.references.of(validation) - validation.energies).mean()
    assert error < 0.3 * baseline
    assert error == pytest.approx(trained.validation_mae, rel=1e-3)


# The score is the least validation error of any epoch, and the weights are that epoch's.
def test_best_epoch_is_kept(parts: tuple[Dataset, Dataset]) -> None:
    trained = train(*parts, OPTIONS.model_copy(update={"lr": 0.3, "gamma": 1.0}), seed=0)
    scores = [epoch.validation_mae for epoch in trained.history]
    assert trained.validation_mae == min(scores)
    assert scores[trained.best_epoch - 1] == min(scores)
    assert scores[-1] > min(scores)
    error = np.abs(trained.fit.predict(parts[1]) - parts[1].energies).mean()
    assert error == pytest.approx(min(scores), rel=1e-3)


# The learning rate falls by gamma every step_size epochs.
def test_learning_rate(parts: tuple[Dataset, Dataset]) -> None:
    options = Training(num_layers=1, num_nodes=2, epochs=7, lr=0.1, gamma=0.5, step_size=3)
    rates = [epoch.lr for epoch in train(*parts, options, seed=0).history]
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]


# The same seed gives the same training, another seed another; torch's own state is untouched.
def test_repeatable(parts: tuple[Dataset, Dataset]) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = train(*parts, OPTIONS, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    _same(one, train(*parts, OPTIONS, seed=1))
    assert train(*parts, OPTIONS, seed=2).validation_mae != one.validation_mae


# Nothing of the validation part leaks into references, scaling or steps.
def test_validation_only_scores(parts: tuple[Dataset, Dataset], make: Make) -> None:
    one = train(*parts, OPTIONS, seed=0)
    other = train(parts[0], make(9, seed=3), OPTIONS, seed=0)
    assert [e.train_mae for e in one.history] == [e.train_mae for e in other.history]
    np.testing.assert_array_equal(one.fit.scaler.mean, other.fit.scaler.mean)
    np.testing.assert_array_equal(one.fit.references.energies, other.fit.references.energies)


# A training stopped after any epoch and continued is the training that was never stopped; its
# watcher hears of each epoch once.
@pytest.mark.parametrize("number", [1, 4, 7])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "float64"},
        {"loss": "huber", "optimizer": "adamw", "clip": 0.1},
        {"ema_decay": 0.9, "loss": "mse"},
        {"optimizer": "lbfgs", "loss": "mse", "precision": "float64", "ema_decay": 0.5},
        {"schedule": "plateau", "step_size": 1, "lr": 0.3},
        {"schedule": "one-cycle", "batch_unit": "atoms", "batch_size": 30},
        {"schedule": "cosine", "references": "none"},
        {"patience": 1, "lr": 0.3, "epochs": 30},
    ],
    ids=str,
)
def test_resumes_bit_for_bit(
    parts: tuple[Dataset, Dataset], tmp_path: Path, number: int, changes: dict
) -> None:
    options = OPTIONS.model_copy(update=changes)
    whole = train(*parts, options, seed=4)
    number = min(number, len(whole.history))
    checkpoint = tmp_path / "trial.safetensors"
    stop, rest = StopAt(number), StopAt(0)
    with pytest.raises(Stop):
        train(*parts, options, seed=4, on_epoch=stop, checkpoint=checkpoint)
    _same(whole, train(*parts, options, seed=4, on_epoch=rest, checkpoint=checkpoint))
    assert stop.seen + rest.seen == list(range(1, len(whole.history) + 1))
    if options.patience:
        assert len(whole.history) < options.epochs


# A finished training is not trained again: the checkpoint has its result.
def test_finished_checkpoint_returns_at_once(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    checkpoint, watcher = tmp_path / "c.safetensors", StopAt(0)
    whole = train(*parts, OPTIONS, seed=4, checkpoint=checkpoint)
    _same(whole, train(*parts, OPTIONS, seed=4, on_epoch=watcher, checkpoint=checkpoint))
    assert watcher.seen == []


# A checkpoint is written on the way as well, for whoever is killed outright.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checkpoint_seconds": 0}, [False] + [True] * 7),
        ({"checkpoint_epochs": 3}, [False] * 3 + [True] * 5),
        ({}, [False] * 8),
    ],
)
def test_checkpoints_on_the_way(
    parts: tuple[Dataset, Dataset], tmp_path: Path, changes: dict, expected: list[bool]
) -> None:
    checkpoint = tmp_path / "c.safetensors"
    found: list[bool] = []
    train(
        *parts,
        OPTIONS.model_copy(update=changes),
        seed=0,
        on_epoch=lambda _: found.append(checkpoint.exists()),
        checkpoint=checkpoint,
    )
    assert found == expected


# Damaged checkpoints, and those of another seed, option or data, are passed over with a warning.
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "seed", "options", "data"])
def test_unusable_checkpoint_is_passed_over(
    parts: tuple[Dataset, Dataset],
    make: Make,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, validation = parts
    checkpoint = tmp_path / "c.safetensors"
    seed = 1 if damage == "seed" else 0
    options = OPTIONS.model_copy(update={"lr": 0.02}) if damage == "options" else OPTIONS
    train(
        make(40, seed=9) if damage == "data" else data,
        validation,
        options,
        seed,
        checkpoint=checkpoint,
    )
    content = checkpoint.read_bytes()
    flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    damaged = {"cut": content[:-9], "flipped": flipped, "empty": b"", "text": b"no checkpoint"}
    checkpoint.write_bytes(damaged.get(damage, content))
    with caplog.at_level(logging.WARNING):
        _same(
            train(data, validation, OPTIONS, 0, checkpoint=checkpoint),
            train(data, validation, OPTIONS, 0),
        )
    assert "checkpoint" in caplog.text


# A training whose error explodes, or stops being a number, ends and says in which epoch.
@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_divergence(parts: tuple[Dataset, Dataset], lr: float) -> None:
    options = OPTIONS.model_copy(update={"lr": lr, "activation": "relu"})
    with pytest.raises(Diverged, match=r"diverged in epoch [1-9]"):
        train(*parts, options, seed=0)


# No validation structures, no score: an error, as is an element that only validation has.
def test_unusable_parts(parts: tuple[Dataset, Dataset], make: Make) -> None:
    data, validation = parts
    with pytest.raises(DataError, match="validation part"):
        train(data, validation.take(np.array([], dtype=np.int64)), OPTIONS, seed=0)
    strange = replace(validation, numbers=np.full_like(validation.numbers, 79))
    with pytest.raises(DataError, match="Au"):
        train(data, strange, OPTIONS, seed=0)


# Training on the CPU, saving and predicting do without torch, which takes seconds to import.
def test_torch_is_not_imported() -> None:
    code = (
        "import sys, ampflow.potential.training, ampflow.potential.calculator\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Training ends `patience` epochs after the best, and keeps the best.
def test_early_stopping(parts: tuple[Dataset, Dataset]) -> None:
    options = OPTIONS.model_copy(update={"patience": 2, "lr": 0.3, "epochs": 50})
    trained = train(*parts, options, seed=0)
    assert len(trained.history) == trained.best_epoch + 2 < 50
    longer = train(*parts, options.model_copy(update={"patience": 0}), seed=0)
    errors = [epoch.validation_mae for epoch in trained.history]
    assert [epoch.validation_mae for epoch in longer.history][: len(errors)] == errors


# The weights that are validated and kept are the averaged ones, where they are asked for.
def test_averaged_weights_are_kept(parts: tuple[Dataset, Dataset]) -> None:
    trained = train(*parts, OPTIONS.model_copy(update={"ema_decay": 0.9}), seed=0)
    plain = train(*parts, OPTIONS, seed=0)
    assert [e.train_mae for e in trained.history] == [e.train_mae for e in plain.history]
    assert trained.validation_mae != plain.validation_mae
    error = np.abs(trained.fit.predict(parts[1]) - parts[1].energies).mean()
    assert error == pytest.approx(trained.validation_mae, rel=1e-3)


# How often a checkpoint is written does not change what a training is named by.
def test_checkpoint_options_do_not_decide() -> None:
    other = OPTIONS.model_copy(update={"checkpoint_seconds": 1.0, "checkpoint_epochs": 5})
    assert other.decisive() == OPTIONS.decisive()
    assert OPTIONS.model_copy(update={"clip": 1.0}).decisive() != OPTIONS.decisive()
    assert "lr" not in OPTIONS.decisive(exclude={"lr"})


# L-BFGS lowers the loss in every step, far below where Adam is after as many epochs.
def test_lbfgs(parts: tuple[Dataset, Dataset]) -> None:
    changes = {"loss": "mse", "precision": "float64", "dropout_rate": 0.0, "epochs": 40}
    options = OPTIONS.model_copy(update=changes)
    found = train(*parts, options.model_copy(update={"optimizer": "lbfgs"}), seed=0)
    adam = train(*parts, options, seed=0)
    assert found.history[-1].train_mae < 0.7 * adam.history[-1].train_mae
