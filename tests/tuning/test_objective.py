from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ampflow.experiment import Choices, Training
from ampflow.tuning.objective import Potentials
from ampflow.tuning.results import CHECKPOINT, TrainingFailed, trial_folder
from ampflow.tuning.study import best_training, open_study
from ampflow.tuning.worker import run_worker

OPTIONS = Training(num_layers=1, num_nodes=4, epochs=6, batch_size=8)


# What a worker is told of each epoch is what the checkpoint says was done.
def test_epochs_and_checkpoint(potentials: Potentials, tmp_path: Path) -> None:
    seen: list[Any] = []
    checkpoint = tmp_path / "trial" / CHECKPOINT
    assert potentials.done(checkpoint) == []
    trained = potentials.train(OPTIONS, 1, checkpoint=checkpoint, on_epoch=seen.append)
    assert potentials.done(checkpoint) == seen == trained.history
    assert trained.validation_mae == min(epoch.validation_mae for epoch in seen)


def test_damaged_checkpoint_has_no_epochs(potentials: Potentials, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"x" * 100)
    assert potentials.done(tmp_path / CHECKPOINT) == []


def test_diverging_training_has_failed(potentials: Potentials, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"lr": 1e9, "epochs": 50})
    with pytest.raises(TrainingFailed, match="diverged in epoch"):
        potentials.train(options, 1, checkpoint=tmp_path / CHECKPOINT, on_epoch=lambda _: None)


# A study of real trainings, stopped in the middle and gone on with: the best options are those
# of its best trial, whose checkpoint is where the winner is looked for.
def test_study_of_potentials(potentials: Potentials, make_spec: Any) -> None:
    space = {"num_nodes": Choices(choices=[2, 4, 8]), "lr": Choices(choices=[1e-3, 1e-2])}
    spec = make_spec(trials=6, epochs=6, sampler="grid", space=space)
    asked = iter(range(10_000))
    while run_worker(spec, "w", stop=lambda: next(asked) % 9 == 8).ended != "done":
        pass
    trials = open_study(spec).trials
    best = best_training(spec)
    assert best is not None
    assert best.num_nodes == min(trials, key=lambda trial: trial.value).params["num_nodes"]
    assert (trial_folder(spec, best) / CHECKPOINT).is_file()
    assert all(len(trial.intermediate_values) == 6 for trial in trials)
