from __future__ import annotations

import dataclasses
import itertools
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import sqlalchemy
from fake_trainer import FakeTrainer
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from ampflow.errors import StorageError
from ampflow.experiment import Choices, Range
from ampflow.tuning import limits
from ampflow.tuning.results import end_of
from ampflow.tuning.storage import _parse
from ampflow.tuning.study import StudySpec, open_study, prepare_study, study_summary, trial_table
from ampflow.tuning.trial import is_reported
from ampflow.tuning.worker import TrialsFail, run_worker

STEPS = {
    "lr": Choices(choices=[1e-3, 1e-2]),
    "num_layers": Range(low=2, high=4),
    "gamma": Range(low=0.5, high=1, step=0.5),
}
NUMBERS = {"lr": Range(low=1e-4, high=1e-1, log=True), "num_layers": Range(low=2, high=6)}


def outcome(spec: StudySpec) -> pd.DataFrame:
    """Return what a study came to, without what depends on the time of day."""
    return trial_table(open_study(spec)).drop(columns=["started", "finished"])


class Interrupts:
    """Says stop at every so many questions."""

    def __init__(self, every: int) -> None:
        self._every, self._asked = every, 0

    def __call__(self) -> bool:
        self._asked += 1
        return self._asked % self._every == 0


def test_study_from_nothing(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec()
    reports = []
    summary = run_worker(spec, "w", objective=trainer, on_trial=reports.append)
    assert (summary.complete, summary.ended) == (6, "done")
    table = outcome(spec)
    assert table["number"].tolist() == [report.number for report in reports] == [*range(6)]
    assert table["epochs"].tolist() == [5] * 6
    assert set(table["worker"]) == {"w"}
    assert table["seconds"].tolist() == [2.5] * 6
    assert table["value"].tolist() == [report.value for report in reports]
    assert list((spec.cache / "claims" / spec.name).iterdir()) == []


# The score of a trial is its best epoch's, and the table says which that was.
def test_score_is_of_the_best_epoch(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec(epochs=6, trials=1)
    run_worker(spec, "w", objective=trainer)
    trial = open_study(spec).trials[0]
    assert end_of(trial)["best_epoch"] == 5  # every third is worse
    assert trial.value == pytest.approx(trial.intermediate_values[5])
    assert trial.intermediate_values[6] == trial.intermediate_values[5]  # the best so far


def test_more_trials_are_added_to_the_study(make_spec: Any, trainer: FakeTrainer) -> None:
    run_worker(make_spec(trials=3), "w", objective=trainer)
    assert run_worker(make_spec(trials=3), "w", objective=trainer).complete == 0
    spec = make_spec(trials=5)
    assert run_worker(spec, "w", objective=trainer).complete == 2
    assert outcome(spec)["number"].tolist() == [0, 1, 2, 3, 4]


# A trial beyond the budget, left from when it was larger, is not run.
def test_budget_lowered(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec(trials=4)
    study = prepare_study(spec)
    for _ in range(4):
        study.enqueue_trial({})
    run_worker(make_spec(trials=2), "w", objective=trainer)
    states = [trial.state for trial in open_study(spec).trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.WAITING] * 2


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", "hyperband"),
        ("random", "none"),
        ("cmaes", "hyperband"),
        ("qmc", "halving"),
        ("grid", "median"),
    ],
)
def test_samplers_and_pruners(
    make_spec: Any, trainer: FakeTrainer, sampler: str, pruner: str
) -> None:
    space = STEPS if sampler == "grid" else NUMBERS
    spec = make_spec(trials=12, epochs=9, sampler=sampler, pruner=pruner, space=space)
    summary = run_worker(spec, "w", objective=trainer)
    assert summary.complete + summary.pruned == 12
    assert summary.complete
    assert bool(summary.pruned) == (pruner != "none")


# What one worker finds depends on the seed alone, also when it is stopped again and again and
# goes on as a new process would.
@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "hyperband"), ("cmaes", "median")])
def test_interrupted_study_finds_the_same(
    make_spec: Any, tmp_path: Path, sampler: str, pruner: str
) -> None:
    options = {"trials": 14, "epochs": 9, "sampler": sampler, "pruner": pruner, "space": NUMBERS}
    whole = make_spec("whole", **options)
    run_worker(whole, "w", objective=FakeTrainer(tmp_path / "whole.txt"))
    parts = make_spec("parts", **options)
    trainer = FakeTrainer(tmp_path / "parts.txt", every=4)
    interrupts = Interrupts(7)
    while run_worker(parts, "w", objective=trainer, stop=interrupts).ended != "done":
        pass
    pd.testing.assert_frame_equal(outcome(whole), outcome(parts))
    assert len(trainer.epochs()) == len(set(trainer.epochs()))  # a stop loses no epoch
    other = make_spec("other", seed=2, **options)
    run_worker(other, "w", objective=FakeTrainer(tmp_path / "other.txt"))
    assert not outcome(other)["lr"].equals(outcome(whole)["lr"])


# Ctrl-C lets go of the trial, and the same command goes on with it at once.
def test_keyboard_interrupt(make_spec: Any, trainer: FakeTrainer) -> None:
    class Interrupted(FakeTrainer):
        def train(self, *args: Any, on_epoch: Any, **options: Any) -> Any:
            def interrupted(epoch: Any) -> None:
                on_epoch(epoch)
                if epoch.number == 3:
                    raise KeyboardInterrupt

            return super().train(*args, on_epoch=interrupted, **options)

    spec = make_spec(trials=2)
    with pytest.raises(KeyboardInterrupt):
        run_worker(spec, "first", objective=Interrupted(trainer.diary))
    assert open_study(spec).trials[0].state == TrialState.RUNNING
    assert run_worker(spec, "second", objective=trainer).complete == 2
    assert [number for _, number in trainer.epochs()] == [1, 2, 3, 4, 5] * 2
    steps = open_study(spec).trials[0].intermediate_values
    assert list(steps) == [1, 2, 3, 4, 5]


# A diverged trial is told as failed with its reason, the study goes on, and the same
# hyperparameters are not tried again.
def test_diverged_trial(make_spec: Any, trainer: FakeTrainer) -> None:
    space = {"lr": Choices(choices=[1e-3, 1e-1])}
    spec = make_spec(trials=12, space=space)
    diverging = dataclasses.replace(trainer, diverges=0.05)
    summary = run_worker(spec, "w", objective=diverging)
    assert summary.complete
    assert summary.complete + summary.failed == 12
    failed = outcome(spec).query("state == 'fail'")
    assert set(failed["lr"]) == {0.1}
    assert set(failed["reason"]) == {"training diverged in epoch 3"}
    assert len(diverging.epochs()) == 2 + 5


def test_score_that_is_not_a_number(make_spec: Any, trainer: FakeTrainer) -> None:
    class NoNumber(FakeTrainer):
        def train(self, *args: Any, **options: Any) -> Any:
            return dataclasses.replace(super().train(*args, **options), validation_mae=math.nan)

    spec = make_spec(trials=2)
    assert run_worker(spec, "w", objective=NoNumber(trainer.diary)).failed == 2
    assert outcome(spec)["reason"].tolist() == ["validation MAE is nan"] * 2


class Broken(FakeTrainer):
    def train(self, *args: Any, **options: Any) -> Any:
        raise self.mishap


# A failure of the program is told as one trial's, and stops the study if it goes on.
def test_unexpected_error(make_spec: Any, trainer: FakeTrainer) -> None:
    Broken.mishap = RuntimeError("out of memory")
    spec = make_spec(trials=20)
    with pytest.raises(TrialsFail, match="5 trials in a row failed: RuntimeError: out of memory"):
        run_worker(spec, "w", objective=Broken(trainer.diary))
    assert study_summary(spec).failed == 5
    assert run_worker(spec, "w", objective=trainer).complete == 15


# A full disk is nobody's hyperparameters: the trial stays as it is, to be continued.
def test_full_disk(make_spec: Any, trainer: FakeTrainer) -> None:
    Broken.mishap = OSError(28, "No space left on device")
    spec = make_spec()
    with pytest.raises(StorageError, match="the disk is full"):
        run_worker(spec, "w", objective=Broken(trainer.diary))
    assert study_summary(spec).failed == 0
    assert run_worker(spec, "w", objective=trainer).complete == 6


# The same hyperparameters are trained once, in one study or another.
def test_nothing_is_trained_twice(make_spec: Any, trainer: FakeTrainer) -> None:
    space = {"lr": Choices(choices=[1e-3, 1e-2])}
    spec = make_spec(trials=8, space=space)
    run_worker(spec, "w", objective=trainer)
    other = make_spec(trials=4, space=space, sampler="tpe")
    run_worker(other, "w", objective=trainer)
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 10
    table = outcome(spec)
    assert table["reused_from"].count() == 6
    assert table.groupby("lr")["value"].nunique().tolist() == [1, 1]
    assert set(outcome(other)["reused_from"].str.partition("/")[0]) == {spec.name}
    steps = [list(trial.intermediate_values) for trial in open_study(other).trials]
    assert steps == [[1, 2, 3, 4, 5]] * 4


# What a pruned trial trained is not trained again by a trial that goes further.
def test_checkpoint_of_a_pruned_trial_is_continued(make_spec: Any, trainer: FakeTrainer) -> None:
    pruned = make_spec(trials=30, epochs=9, space=STEPS, pruner="halving")
    assert run_worker(pruned, "w", objective=trainer).pruned
    spec = make_spec(trials=30, epochs=9, space=STEPS, sampler="grid")
    assert run_worker(spec, "w", objective=trainer).complete == 12
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 12 * 9
    assert [len(trial.intermediate_values) for trial in open_study(spec).trials] == [9] * 12


def lost(*_: Any) -> None:
    raise StorageInternalError("server closed the connection")


# A storage that goes on failing ends the work, and leaves the trial to whoever comes next.
def test_lost_database(
    make_spec: Any, trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(JournalStorage, "create_new_trial", lost)
        patch.setattr("ampflow.tuning.patience._PATIENCE", 0.1)
        with pytest.raises(StorageError, match="server closed the connection"):
            run_worker(spec, "w", objective=trainer)
    assert run_worker(spec, "w", objective=trainer).complete == 2


# A server that ends every connection, in the middle of a transaction, ends no search: the trial
# is continued from its checkpoint.
@pytest.mark.parametrize("storage", ["postgresql", "mysql"], indirect=True)
def test_connections_lost(
    make_spec: Any, trainer: FakeTrainer, storage: str, request: pytest.FixtureRequest
) -> None:
    lost: list[int] = []

    def lose(connection: sqlalchemy.Connection) -> None:
        if not lost and len(trainer.epochs()) >= 2:
            postgresql = connection.dialect.name == "postgresql"
            me = "pg_backend_pid()" if postgresql else "connection_id()"
            lost.append(connection.exec_driver_sql(f"SELECT {me}").scalar_one())
            kill = "SELECT pg_terminate_backend({})" if postgresql else "KILL {}"
            with admin.connect() as other:
                other.exec_driver_sql(kill.format(lost[-1]))

    spec = make_spec(trials=2, storage=storage)
    admin = sqlalchemy.create_engine(_parse(storage))
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lose)
    request.addfinalizer(lambda: sqlalchemy.event.remove(sqlalchemy.Engine, "commit", lose))
    assert run_worker(spec, "w", objective=trainer).complete == 2
    assert lost
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 10
    for trial in open_study(spec).trials:
        assert list(trial.intermediate_values) == [1, 2, 3, 4, 5]


def test_deadline_begins_no_trial(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec()
    summary = run_worker(spec, "w", objective=trainer, deadline=time.time())
    assert (summary.complete, summary.ended) == (0, "deadline")
    assert open_study(spec).trials == []


@pytest.fixture
def a_second_an_epoch(monkeypatch: pytest.MonkeyPatch, trainer: FakeTrainer) -> None:
    """Have the clock, which begins at 1000, show how many epochs were trained."""
    clock = SimpleNamespace(time=lambda: 1000.0 + len(trainer.epochs()))
    monkeypatch.setattr(limits, "time", clock)


# A worker whose job ends lets go of its trial a margin before, and begins none with no time for
# it. Whoever comes next goes on with the same trial, and no epoch is lost.
@pytest.mark.usefixtures("a_second_an_epoch")
def test_job_over(make_spec: Any, trainer: FakeTrainer, storage: str) -> None:
    spec = make_spec(trials=2, epochs=40, storage=storage)
    summary = run_worker(spec, "w", objective=trainer, job_end=1010, margin=2)
    assert len(trainer.epochs()) == 8
    assert (summary.ended, summary.complete, summary.dropped) == ("job over", 0, 0)
    assert [trial.state for trial in open_study(spec).trials] == [TrialState.RUNNING]
    summary = run_worker(spec, "w", objective=trainer, job_end=1012, margin=2)
    assert (len(trainer.epochs()), summary.ended) == (8, "job over")
    assert run_worker(spec, "x", objective=trainer, job_end=9999).complete == 2
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 80


# A trial whose epochs take longer than a job lasts comes to its end nevertheless, an epoch a job;
# but a run with no time for one leaves it.
@pytest.mark.usefixtures("a_second_an_epoch")
def test_jobs_shorter_than_an_epoch(make_spec: Any, trainer: FakeTrainer) -> None:
    spec, slow = make_spec(trials=1, epochs=3), dataclasses.replace(trainer, seconds=50)
    for done in (1, 2):
        summary = run_worker(spec, "w", objective=slow, job_end=1020, margin=2)
        assert (len(trainer.epochs()), summary.ended) == (done, "job over")
        assert run_worker(spec, "w", objective=slow, deadline=1020).ended == "deadline"
        assert len(trainer.epochs()) == done
    assert run_worker(spec, "w", objective=slow, job_end=1020, margin=2).complete == 1


# The time of a run is its own: what is not finished by then is left, with all its epochs.
@pytest.mark.usefixtures("a_second_an_epoch")
def test_deadline_leaves_the_trial(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec(trials=1, epochs=40)
    summary = run_worker(spec, "w", objective=trainer, deadline=1010)
    assert (len(trainer.epochs()), summary.complete, summary.ended) == (10, 0, "deadline")
    assert run_worker(spec, "w", objective=trainer).complete == 1
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 40


def test_damaged_result_is_made_again(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec(trials=1)
    run_worker(spec, "w", objective=trainer)
    for path in (spec.cache / "trials").glob("*/result.json"):
        path.write_text("{}")
    other = make_spec(trials=1, pruner="median")  # another study of the same trials
    assert run_worker(other, "w", objective=trainer).complete == 1
    assert len(trainer.epochs()) == 5


# Steps are dense at first, then sparse, the same for all trials, and the last is among them.
def test_reported_epochs() -> None:
    steps = [epoch for epoch in range(1, 1001) if is_reported(epoch, 1000)]
    assert steps[:20] == [*range(1, 21)]
    assert steps[-1] == 1000
    assert 80 < len(steps) < 110
    assert max(b / a for a, b in itertools.pairwise(steps[20:])) < 1.1
    assert steps[:40] == [epoch for epoch in range(1, 1001) if is_reported(epoch, 9999)][:40]
