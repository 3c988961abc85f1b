"""Training the winner as a task."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from ampflow.experiment import Experiment, Fingerprints, Training
from ampflow.layout import Layout
from ampflow.splits import Splits
from ampflow.tuning.described import described_store
from ampflow.tuning.results import trial_folder
from ampflow.tuning.study import StudySpec
from ampflow.winner import Winner, train_winner
from tasks.caching import STEP, run_cached
from tasks.progress import step_progress

__all__ = ["train_potential"]


def train_potential(
    experiment: Experiment, spec: StudySpec, training: Training, fingerprints: Fingerprints
) -> Path:
    """Return the folder of the potential with these hyperparameters, made unless it exists."""
    layout = Layout.of(experiment)
    trial = trial_folder(spec, training, fingerprints)
    folder = layout.winners / trial.name
    whole = Winner(folder).is_whole()
    return run_cached(
        _train, trial.name, folder, layout.steps, whole,
        spec, training, fingerprints, trial, folder,
    )  # fmt: skip


@task(name="Winner", **STEP)
def _train(
    spec: StudySpec, training: Training, fingerprints: Fingerprints, trial: Path, folder: Path
) -> None:
    with step_progress("Winner") as progress:
        train_winner(
            described_store(spec, fingerprints),
            Splits.read(spec.split),
            training,
            spec.seed,
            trial / "checkpoint.safetensors",
            folder,
            progress,
        )
