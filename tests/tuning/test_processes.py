"""Several real processes on one study, some of them killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from fake_trainer import FakeTrainer
from optuna.trial import TrialState
from processes import Start, wait_for, wait_for_epochs, wait_until_stopped, work_until_stopped

from ampflow.experiment import Choices, Range, Training
from ampflow.potential.training import Epoch, Trained
from ampflow.tuning.objective import Potentials
from ampflow.tuning.study import StudySpec, open_study, prepare_study, trial_table
from ampflow.tuning.worker import run_worker


def times_told(spec: StudySpec) -> Counter[int]:
    """Count in the journal how often each trial was told to have ended."""
    told: Counter[int] = Counter()
    for line in spec.journal.read_text().splitlines():
        entry = json.loads(line)
        if TrialState(entry.get("state", 0)).is_finished():
            told[entry["trial_id"]] += 1
    return told


# The budget holds exactly, every trial is told once, and no epoch is trained twice, however
# the workers race for trials that take no time.
def test_budget_holds(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    spec = make_spec(trials=14, epochs=3, storage=storage, sampler="tpe")
    prepare_study(spec)
    workers = [start(spec, f"w{n}", trainer) for n in range(4)]
    for process in workers:
        process.join()
    trials = open_study(spec).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 14
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 14 * 3
    done = [json.loads(trainer.diary.with_name(f"w{n}").read_text()) for n in range(4)]
    assert sum(summary["complete"] for summary in done) == 14
    assert len({json.dumps(trial.params) for trial in trials}) == 14  # no two propose the same
    if not storage:
        assert times_told(spec) == Counter(range(14))


# kill -9 in the middle of a trial: the next worker goes on at once with that trial, the same
# hyperparameters, from its checkpoint, and repeats no more than one checkpoint interval.
def test_killed_worker(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    spec = make_spec(trials=3, epochs=12, storage=storage)
    prepare_study(spec)
    slow = dataclasses.replace(trainer, delay=0.05, every=3, waits=9)
    process = start(spec, "first", slow)
    wait_for_epochs(trainer, 8)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    before, trained = open_study(spec).trials, len(trainer.epochs())
    assert [trial.state for trial in before] == [TrialState.RUNNING]
    assert run_worker(spec, "second", objective=trainer).complete == 3
    after = open_study(spec).trials
    assert after[0].params == before[0].params
    assert before[0].intermediate_values.items() <= after[0].intermediate_values.items()
    assert list(after[0].intermediate_values) == [*range(1, 13)]
    first = [number for name, number in trainer.epochs() if name == trainer.epochs()[0][0]]
    assert first == [*range(1, trained + 1), *range(trained // 3 * 3 + 1, 13)]
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 3


# A worker that sleeps too long loses its trial. Waking up, it notices and drops it: nothing is
# told twice, and it goes on with the next trial.
def test_late_worker(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    spec = make_spec(trials=1, epochs=40, storage=storage)
    prepare_study(spec)
    process = start(spec, "late", dataclasses.replace(trainer, delay=0.05, waits=6))
    wait_for_epochs(trainer, 5)
    os.kill(process.pid or 0, signal.SIGSTOP)
    summary = run_worker(spec, "other", objective=trainer, wait=True, grace=1.0)
    assert summary.complete == 1
    trainer.go.touch()
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    late = json.loads(trainer.diary.with_name("late").read_text())
    assert (late["complete"], late["dropped"]) == (0, 1)
    if not storage:
        assert times_told(spec) == Counter([0])
    assert trial_table(open_study(spec))["worker"].tolist() == ["other"]


# One that stops in the middle of a transaction holds locks on the server. That ends the
# transaction, so that others go on; and the late worker finds its connection dead, notices why,
# and drops the trial.
@pytest.mark.parametrize("storage", ["postgresql", "mysql"], indirect=True)
def test_worker_stopped_in_a_transaction(
    make_spec: Any, trainer: FakeTrainer, start: Start, storage: str
) -> None:
    spec = make_spec(trials=1, epochs=5, storage=storage)
    prepare_study(spec)
    process = start(spec, "late", trainer, work_until_stopped)
    wait_until_stopped(process)
    assert run_worker(spec, "other", objective=trainer, wait=True, grace=1.0).complete == 1
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    late = json.loads(trainer.diary.with_name("late").read_text())
    assert (late["complete"], late["dropped"]) == (0, 1)
    assert trial_table(open_study(spec))["worker"].tolist() == ["other"]


# A worker alive and well keeps its trial, whoever else looks at it.
def test_trial_of_a_live_worker(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = make_spec(trials=1, epochs=20)
    prepare_study(spec)
    process = start(spec, "first", dataclasses.replace(trainer, waits=3))
    wait_for_epochs(trainer, 2)
    assert run_worker(spec, "second", objective=trainer).complete == 0
    trainer.go.touch()
    process.join()
    assert len(trainer.epochs()) == 20


# Workers that are given the same hyperparameters train them once, and the others wait for it.
def test_same_hyperparameters_at_once(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = make_spec(trials=3, epochs=20, space={"lr": Choices(choices=[1e-3])})
    prepare_study(spec)
    slow = dataclasses.replace(trainer, delay=0.05)
    workers = [start(spec, f"w{n}", slow) for n in range(3)]
    for process in workers:
        process.join()
    assert len(trainer.epochs()) == 20
    trials = open_study(spec).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert len({trial.value for trial in trials}) == 1


# Kills at random: the study still ends whole, each trial once, and nothing is left behind.
@pytest.mark.slow
def test_chaos(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    spec = make_spec(trials=40, epochs=10, storage=storage, sampler="tpe", pruner="median")
    prepare_study(spec)
    slow = dataclasses.replace(trainer, delay=0.03, every=3)
    names = (f"w{n}" for n in range(1000))
    workers = [start(spec, next(names), slow, wait=True) for _ in range(3)]
    for kill in range(20):
        if not any(worker.is_alive() for worker in workers):
            break
        time.sleep(0.5 + 0.17 * (kill % 3))
        victim = workers[kill % 3]
        if victim.is_alive():
            victim.kill()
            victim.join()
            workers[kill % 3] = start(spec, next(names), slow, wait=True)
    for process in workers:
        process.join()
    trials = open_study(spec).trials
    assert len(trials) == 40
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    repeated = Counter(trainer.epochs())
    assert sum(count - 1 for count in repeated.values()) <= 20 * 3  # an interval for each kill
    assert list((spec.cache / "claims" / spec.name).iterdir()) == []
    if not storage:
        assert times_told(spec) == Counter(range(40))


class Counted(Potentials):
    """Real trainings, slowed down, with a diary of their epochs.

    While there is a file `alone` beside it, only the process that it names trains.
    """

    def __init__(self, spec: StudySpec, diary: Path, pause: float) -> None:
        super().__init__(spec.store, spec.split)
        self.diary, self._pause = diary, pause
        self.alone = diary.with_name("alone")

    def train(
        self, options: Training, seed: int, *, checkpoint: Path, on_epoch: Callable[[Epoch], None]
    ) -> Trained:
        def counted(epoch: Epoch) -> None:
            time.sleep(self._pause)
            while self._is_to_wait():
                time.sleep(0.01)
            with self.diary.open("a") as stream:
                stream.write(f"{os.getpid()} {checkpoint.parent.name} {epoch.number}\n")
            on_epoch(epoch)

        return super().train(options, seed, checkpoint=checkpoint, on_epoch=counted)

    def _is_to_wait(self) -> bool:
        try:
            return self.alone.read_text() != str(os.getpid())
        except FileNotFoundError:
            return False


def with_checkpoints(spec: StudySpec, epochs: int) -> StudySpec:
    training = spec.training.model_copy(update={"checkpoint_epochs": epochs})
    spec = dataclasses.replace(spec, training=training)
    spec.__dict__["trainer_version"] = 0
    return spec


# Real trainings in real processes, killed at random 20 times: the trials are those of a study
# that was never killed, with the same results; none is lost, none told twice, and of each kill
# no more than the epochs since the last checkpoint are trained again.
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "postgresql"], indirect=True)
def test_killed_at_random(
    make_spec: Any, potentials: Potentials, tmp_path: Path, start: Start, storage: str
) -> None:
    pause, epochs, trials = 0.03, 40, 24
    space = {"lr": Range(low=1e-3, high=1e-2), "num_nodes": Range(low=2, high=8)}
    options = {"trials": trials, "epochs": epochs, "sampler": "qmc", "space": space}
    whole = with_checkpoints(make_spec("whole", **options), 4)
    run_worker(whole, "w", objective=potentials)
    spec = with_checkpoints(make_spec("killed", storage=storage, **options), 4)
    prepare_study(spec)
    counted, names = Counted(spec, tmp_path / "diary", pause), (f"w{n}" for n in range(1000))
    counted.diary.touch()
    random = Random(4)
    workers = [start(spec, next(names), counted, wait=True) for _ in range(2)]
    for kill in range(20):
        victim = workers[kill % 2]
        # Nobody else trains while it loads kernels: however slow that is, 20 kills find trials.
        counted.alone.write_text(str(victim.pid))
        wait_for("an epoch", lambda pid=victim.pid: f"{pid} " in counted.diary.read_text())
        counted.alone.unlink()
        time.sleep(random.uniform(0.0, 0.8))
        counted.alone.write_text("nobody")
        victim.kill()
        victim.join()
        workers[kill % 2] = start(spec, next(names), counted, wait=True)
    counted.alone.unlink()
    for process in workers:
        process.join()
    lines = counted.diary.read_text().splitlines()
    trained = Counter(line.partition(" ")[2] for line in lines)
    assert len(trained) == trials * epochs
    assert 0 < trained.total() - len(trained) <= 20 * 4
    found, expected = (
        trial_table(open_study(s))[["number", "state", "value", "lr", "num_nodes", "epochs"]]
        for s in (spec, whole)
    )
    pd.testing.assert_frame_equal(found, expected)
    assert list((spec.cache / "claims" / spec.name).iterdir()) == []
    if not storage:
        assert times_told(spec) == Counter(range(trials))
