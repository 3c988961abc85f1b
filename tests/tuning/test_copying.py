from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_trainer import FakeTrainer
from optuna.storages import JournalStorage, _CachedStorage
from optuna.trial import TrialState
from typer.testing import CliRunner

from ampflow.cli.studies import app
from ampflow.errors import StorageError
from ampflow.tuning.leases import Leases
from ampflow.tuning.spec import claims_folder
from ampflow.tuning.storage import open_storage
from ampflow.tuning.study import StudySpec, copy_study, open_study
from ampflow.tuning.worker import run_worker


def interrupted(spec: StudySpec, trainer: FakeTrainer) -> None:
    """Leave a study with trials of every kind: complete, pruned, failed and begun."""
    diverging = dataclasses.replace(trainer, diverges=0.012)
    run_worker(spec, "w", objective=diverging)
    bigger = dataclasses.replace(
        spec, tuning=spec.tuning.model_copy(update={"trials": spec.tuning.trials + 1})
    )
    bigger.__dict__["trainer_version"] = 0
    asked = iter(range(1000))
    run_worker(bigger, "w", objective=diverging, stop=lambda: next(asked) == 1)


def everything(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (
            *(t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values),
            *(t.user_attrs, t.system_attrs),
            *(t.datetime_start, t.datetime_complete),
        )
        for t in study.trials
    ]


# There and back again between a journal and every kind of storage: all of every trial arrives,
# and the interrupted one is continued where it was moved to.
def test_there_and_back(make_spec: Any, trainer: FakeTrainer, storage: str, tmp_path: Path) -> None:
    to = storage or f"sqlite:///{tmp_path}/other.db"
    options = {"trials": 12, "epochs": 9, "pruner": "median", "sampler": "cmaes", "seed": 6}
    space = {k: v for k, v in make_spec().tuning.space.items() if k != "batch_size"}
    spec = make_spec(space=space, **options)
    interrupted(spec, trainer)
    before = open_study(spec)
    states = {trial.state for trial in before.trials}
    assert states >= {TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING}
    assert copy_study(spec.name, spec.cache, to=to) == 13
    moved = make_spec(space=space, storage=to, **options | {"trials": 14})
    there = everything(open_study(moved))
    if not to.startswith("mysql"):
        assert there == everything(before)
    assert [row[:8] for row in there] == [row[:8] for row in everything(before)]
    spec.journal.unlink()
    assert copy_study(spec.name, spec.cache, to, to="") == 13
    assert everything(open_study(spec)) == there
    epochs = len(trainer.epochs())
    run_worker(moved, "x", objective=trainer)
    assert [trial.state.is_finished() for trial in open_study(moved).trials] == [True] * 14
    assert len(trainer.epochs()) == len(set(trainer.epochs())) > epochs


def test_nothing_is_overwritten(make_spec: Any, trainer: FakeTrainer, tmp_path: Path) -> None:
    spec = make_spec(trials=2)
    run_worker(spec, "w", objective=trainer)
    url = f"sqlite:///{tmp_path}/s.db"
    copy_study(spec.name, spec.cache, to=url)
    for source, to in (("", url), (url, ""), ("", "")):
        with pytest.raises(StorageError, match="already, which is not overwritten"):
            copy_study(spec.name, spec.cache, source, to=to)
    assert len(open_study(spec).trials) == len(open_study(make_spec(storage=url)).trials) == 2
    with pytest.raises(StorageError, match="no study ampflow-x"):
        copy_study("ampflow-x", spec.cache, to=url)


def test_study_that_is_worked_on(make_spec: Any, trainer: FakeTrainer, tmp_path: Path) -> None:
    spec = make_spec(trials=2)
    run_worker(spec, "w", objective=trainer)
    lease = Leases(claims_folder(spec.cache, spec.name), "worker 3").claim("0")
    with pytest.raises(StorageError, match="worked on by worker 3"):
        copy_study(spec.name, spec.cache, to=f"sqlite:///{tmp_path}/s.db")
    assert lease is not None


# A copy that is not like the original, or fails on the way, is removed.
@pytest.mark.parametrize("kind", ["sqlite:///{}/s.db", "journal"])
def test_copy_that_fails(
    make_spec: Any, trainer: FakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    first = f"sqlite:///{tmp_path}/first.db"
    spec = make_spec(trials=3, storage=first)
    run_worker(spec, "w", objective=trainer)
    to = "" if kind == "journal" else kind.format(tmp_path)
    cls = _CachedStorage if to else JournalStorage
    create = cls.create_new_trial

    def one_less(self: Any, study_id: int, template_trial: Any) -> None:
        if template_trial.number:
            create(self, study_id, template_trial)

    def fails(self: Any, study_id: int, template_trial: Any) -> None:
        one_less(self, study_id, template_trial)
        if template_trial.number:
            raise OSError(28, "No space left on device")

    for broken, said in ((one_less, "number of trials .2 for 3."), (fails, "the disk is full")):
        with monkeypatch.context() as patch:
            patch.setattr(cls, "create_new_trial", broken)
            with pytest.raises(StorageError, match=said):
                copy_study(spec.name, spec.cache, first, to=to)
        assert not spec.journal.exists()
    assert copy_study(spec.name, spec.cache, first, to=to) == 3


def test_command(make_spec: Any, trainer: FakeTrainer, tmp_path: Path) -> None:
    spec = make_spec(trials=2)
    run_worker(spec, "w", objective=trainer)
    url = f"sqlite:///{tmp_path}/s.db"
    command = ["copy", spec.name[:12], "--cache", str(spec.cache), "--to", url]
    result = CliRunner().invoke(app, command)
    assert "with 2 trials, and compared" in result.output
    names = optuna.get_all_study_names(open_storage(url, Path()))
    assert names == [spec.name]
