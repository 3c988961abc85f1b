"""A worker that trains several trials at once."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_trainer import FakeTrainer
from optuna.trial import TrialState
from processes import Start, wait_for_epochs
from test_processes import times_told

from ampflow.experiment import Range, Training
from ampflow.tuning import limits
from ampflow.tuning.objective import Potentials, make_potentials
from ampflow.tuning.results import read_result
from ampflow.tuning.study import StudySpec, open_study, prepare_study
from ampflow.tuning.worker import TrialsFail, run_worker

SPACE = {"lr": Range(low=1e-3, high=1e-2), "num_nodes": Range(low=2, high=8)}


def results(spec: StudySpec) -> list[tuple[Any, ...]]:
    found = (read_result(folder) for folder in (spec.cache / "trials").iterdir())
    kept = [(r.validation_maes, r.best_epoch) for r in found if r]
    return sorted(kept)


# Trials go on at once, as many as asked for; the budget holds and each is told once.
def test_at_once(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = make_spec(trials=7, epochs=8, stack=3)
    prepare_study(spec)
    process = start(spec, "w", dataclasses.replace(trainer, waits=2))
    wait_for_epochs(trainer, 3)
    trainer.go.touch()
    process.join()
    assert [number for _, number in trainer.epochs()[:4]] == [1, 1, 1, 2]  # three, and no more
    summary = json.loads(trainer.diary.with_name("w").read_text())
    assert (summary["complete"], summary["ended"]) == (7, "done")
    assert sorted(times_told(spec).items()) == [(n, 1) for n in range(7)]
    assert list((spec.cache / "claims" / spec.name).iterdir()) == []


# Killed, a worker lets go of all its trials: another takes each of them up at once from its
# checkpoint, and none is trained or told twice.
def test_killed(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = make_spec(trials=5, epochs=20, stack=3)
    prepare_study(spec)
    slow = dataclasses.replace(trainer, delay=0.05, every=2, waits=6)
    process = start(spec, "first", slow)
    wait_for_epochs(trainer, 15)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    before = open_study(spec).trials
    assert [trial.state for trial in before] == [TrialState.RUNNING] * 3
    assert run_worker(spec, "second", objective=trainer).complete == 5
    after = open_study(spec).trials
    assert [trial.params for trial in after[:3]] == [trial.params for trial in before]
    assert all(list(trial.intermediate_values) == [*range(1, 21)] for trial in after)
    assert sorted(times_told(spec).items()) == [(n, 1) for n in range(5)]
    assert len(trainer.epochs()) <= 5 * 20 + 3 * 2  # of each trial the epochs since a checkpoint


# Trained together, stopped in the middle and continued, real trials have the results that they
# have one by one, to the last bit.
def test_same_results(make_spec: Any, potentials: Potentials) -> None:
    options = {"trials": 6, "epochs": 12, "sampler": "qmc", "space": SPACE}
    alone = make_spec("alone", **options)
    assert run_worker(alone, "w", objective=potentials).complete == 6
    together = make_spec("together", stack=3, **options)
    looks = iter(range(20))
    lock = threading.Lock()

    def stop() -> bool:
        with lock:
            return next(looks, None) is None

    assert run_worker(together, "w", stop=stop).ended == "stopped"
    assert len(results(together)) < 6
    assert run_worker(together, "w").complete > 0
    assert results(together) == results(alone)


# One trial that fails for a reason of its own ends alone; a worker whose trials all fail ends
# with the reason, whichever thread met it.
def test_failures(make_spec: Any, trainer: FakeTrainer) -> None:
    class Broken(FakeTrainer):
        def train(self, *_: object, **__: object) -> Any:
            raise ValueError("broken")

    spec = make_spec(trials=20, stack=3)
    with pytest.raises(TrialsFail, match="broken"):
        run_worker(spec, "w", objective=Broken(trainer.diary))
    assert not open_study(spec).get_trials(states=[TrialState.RUNNING])


# A budget that ends the work is said, and what the trials have done is kept.
def test_deadline(make_spec: Any, trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(trials=3, epochs=1000, stack=3)
    slow = dataclasses.replace(trainer, delay=0.02)

    def begun() -> int:
        return len({name for name, _ in trainer.epochs()})

    # The hour of the deadline strikes once all three are in training.
    clock = SimpleNamespace(time=lambda: 1000.0 if begun() < 3 else 2000.0)
    monkeypatch.setattr(limits, "time", clock)
    assert run_worker(spec, "w", objective=slow, deadline=2000).ended == "deadline"
    assert begun() == 3
    assert len(trainer.epochs()) < 3 * 1000
    assert all(slow.done(path) for path in (spec.cache / "trials").glob("*/checkpoint*"))


# The stack holds the largest network of the space, and every activation that is searched.
def test_capacity(make_spec: Any) -> None:
    spec = make_spec(stack=8, space={"num_nodes": Range(low=4, high=48)})
    training = Training(num_layers=5, dropout_rate=0.1, activation="gelu")
    made = make_potentials(dataclasses.replace(spec, training=training))(Path("store"))
    capacity = made._engines.__self__._capacity  # type: ignore[union-attr]
    assert (capacity.slots, capacity.layers, capacity.nodes) == (8, 5, 48)
    assert (capacity.activations, capacity.dropout) == (("gelu",), True)
