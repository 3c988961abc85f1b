from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fake_trainer import FakeTrainer
from processes import Start
from typer.testing import CliRunner

from ampflow.cli.studies import app
from ampflow.experiment import Range
from ampflow.tuning.replay import replay_study
from ampflow.tuning.study import StudySpec, open_study, prepare_study

SPACE = {"lr": Range(low=1e-4, high=1e-1, log=True), "num_layers": Range(low=2, high=6)}


def run_in_parallel(spec: StudySpec, trainer: FakeTrainer, start: Start) -> None:
    prepare_study(spec)
    slow = dataclasses.replace(trainer, delay=0.005)
    workers = [start(spec, f"w{n}", slow) for n in range(3)]
    for process in workers:
        process.join()


# What several workers proposed side by side, each seeing what happened to be there, is derived
# again from the recorded study, on every storage.
def test_parallel_study(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    options = {"trials": 16, "epochs": 9, "sampler": "tpe", "pruner": "hyperband"}
    spec = make_spec(storage=storage, **options)
    run_in_parallel(spec, trainer, start)
    before = open_study(spec).trials
    found = replay_study(spec.name, spec.cache, storage)
    assert (found.agree, found.differ, found.unknown) == ([*range(16)], {}, [])
    assert open_study(spec).trials == before  # nothing is written


@pytest.mark.parametrize("sampler", ["random", "cmaes", "gp", "qmc"])
def test_samplers(make_spec: Any, trainer: FakeTrainer, start: Start, sampler: str) -> None:
    spec = make_spec(trials=16, epochs=9, sampler=sampler, pruner="median", space=SPACE)
    run_in_parallel(spec, trainer, start)
    assert replay_study(spec.name, spec.cache).agree == [*range(16)]


# A trial with other hyperparameters than were proposed is found, and a study without records
# says so.
def test_difference(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = make_spec(trials=4, sampler="random")
    run_in_parallel(spec, trainer, start)
    lr = open_study(spec).trials[2].params["lr"]
    text = spec.journal.read_text()
    assert text.count(f"{lr!r}") == 1
    spec.journal.write_text(text.replace(f"{lr!r}", "0.0123"))
    found = replay_study(spec.name, spec.cache)
    assert (found.agree, list(found.differ)) == ([0, 1, 3], [2])
    result = CliRunner().invoke(app, ["replay", "ampflow", "--cache", str(spec.cache)])
    assert result.exit_code == 1
    assert "3 trials are proposed the same" in result.output
    assert "Trial 2 differs" in result.output
    spec.journal.write_text(text.replace('"seen"', '"other"'))
    assert replay_study(spec.name, spec.cache).unknown == [0, 1, 2, 3]
