"""What a training came to, kept by what it depends on, so that none is done twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import FrozenTrial

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.experiment import Fingerprints, Training
from ampflow.files import read_json, write_text
from ampflow.tuning.spec import StudySpec

__all__ = [
    "CHECKPOINT",
    "END",
    "Epoch",
    "Objective",
    "Outcome",
    "Result",
    "TrainingFailed",
    "end_of",
    "read_result",
    "result_of",
    "trial_folder",
    "write_result",
]

CHECKPOINT = "checkpoint.safetensors"
END = "end"
"""Name of the user attribute with all that is told at a trial's end besides its value."""

_RESULT = "result.json"


class Epoch(Protocol):
    """What a worker needs to know of one pass over the train part; errors in eV per structure."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def train_mae(self) -> float:
        """Error on the train part."""

    @property
    def validation_mae(self) -> float:
        """Error on the validation part."""

    @property
    def seconds(self) -> float:
        """How long it took."""


class Outcome(Protocol):
    """What a worker needs to know of a finished training."""

    @property
    def history(self) -> Sequence[Epoch]:
        """All its epochs, also those done before it was interrupted."""

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the least validation error."""

    @property
    def validation_mae(self) -> float:
        """Error of that epoch, eV per structure: the score."""


class Objective(Protocol):
    """How to train: `ampflow.tuning.objective.Potentials`, or something quick in a test."""

    def train(
        self,
        options: Training,
        seed: int,
        *,
        checkpoint: Path,
        on_epoch: Callable[[Epoch], None],
    ) -> Outcome:
        """Train, going on from `checkpoint` if there is one.

        `on_epoch` is called after each new epoch; whatever it raises passes through, after
        the checkpoint was written.

        Raises
        ------
        TrainingFailed
            If the training has no result, now and whenever it is repeated.
        """

    def done(self, checkpoint: Path) -> Sequence[Epoch]:
        """Return the epochs that `checkpoint` holds; none where there is no usable one."""


class TrainingFailed(Exception):  # noqa: N818 - told as a failed trial, not an error of the program
    """These hyperparameters have no result: the training diverged."""


@dataclass(frozen=True)
class Result:
    """What is kept of a training that ended.

    Parameters
    ----------
    study, trial
        Who did it.
    seconds
        Of each epoch.
    best_epoch, validation_mae
        The score, eV per structure, and its epoch; absent where there is none.
    reason
        Why there is none.
    train_maes, validation_maes
        eV per structure, after each epoch.
    """

    study: str
    trial: int
    seconds: list[float]
    best_epoch: int | None = None
    validation_mae: float | None = None
    reason: str = ""
    train_maes: list[float] = field(default_factory=list)
    validation_maes: list[float] = field(default_factory=list)


def end_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return what was told at a trial's end: epochs, best_epoch, seconds, worker and others.

    Older studies have an attribute for each.
    """
    told: dict[str, Any] = trial.user_attrs | trial.user_attrs.get(END, {})
    return told


def result_of(outcome: Outcome, study: str, trial: int) -> Result:
    """Return what is to be kept of `outcome`.

    Raises
    ------
    TrainingFailed
        If its score is not a finite number.
    """
    if not math.isfinite(outcome.validation_mae):
        raise TrainingFailed(f"validation MAE is {outcome.validation_mae}")
    return Result(
        study=study,
        trial=trial,
        seconds=[epoch.seconds for epoch in outcome.history],
        best_epoch=outcome.best_epoch,
        validation_mae=outcome.validation_mae,
        train_maes=[epoch.train_mae for epoch in outcome.history],
        validation_maes=[epoch.validation_mae for epoch in outcome.history],
    )


def trial_folder(
    spec: StudySpec, options: Training, fingerprints: Fingerprints | None = None
) -> Path:
    """Return the folder of a training: named by data, options, seed and trainer version.

    Parameters
    ----------
    fingerprints
        Of the trial, where they are searched; None: those of the study's own store.
    """
    data = spec.data_digest
    if spec.tuning.searches_fingerprints:
        store = spec.store if fingerprints is None else spec.store_of(fingerprints)
        data = digest(store.stem, spec.split.stem)
    name = digest(data, options.decisive(), spec.seed, spec.trainer_version)
    return spec.cache / "trials" / name


def read_result(folder: Path) -> Result | None:
    """Return what was kept in `folder`; None where nothing is, or it is damaged."""
    path = folder / _RESULT
    if not path.is_file():
        return None
    try:
        return Result(**read_json(path))
    except (StorageError, TypeError):
        return None


def write_result(folder: Path, result: Result) -> None:
    """Keep `result` in `folder`.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(folder / _RESULT, json.dumps(vars(result), allow_nan=False))
