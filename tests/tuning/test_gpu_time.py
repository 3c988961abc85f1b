"""Time on GPUs, by a trainer that only says it has one: none is needed to count seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from fake_trainer import FakeTrainer
from processes import Start, wait_for_epochs

from ampflow.experiment import Training
from ampflow.tuning.gpu_time import GpuTime, used_seconds
from ampflow.tuning.leases import Leases
from ampflow.tuning.spec import claims_folder
from ampflow.tuning.study import StudySpec, open_study, prepare_study, trial_table
from ampflow.tuning.worker import run_worker


def on_gpu(spec: StudySpec) -> StudySpec:
    training = Training(epochs=spec.training.epochs, device="cuda")
    spec = dataclasses.replace(spec, training=training)
    spec.__dict__["trainer_version"] = 0
    return spec


def used(spec: StudySpec) -> float:
    return used_seconds(open_study(spec), claims_folder(spec.cache, spec.name))


# Several workers together stay within the budget, of all runs; a larger one lets them go on, and
# no epoch is lost. What was used is known on every storage.
def test_budget(make_spec: Any, trainer: FakeTrainer, start: Start, storage: str) -> None:
    options = {"trials": 4, "epochs": 50, "storage": storage}
    spec = on_gpu(make_spec(gpu_hours=6 / 3600, **options))
    prepare_study(spec)
    # An epoch that says it takes 1.9 s is begun with as much left: it may be late by 1.8 s.
    slow = dataclasses.replace(trainer, delay=0.1, seconds=1.9)
    began = time.monotonic()
    # Two that refuse each other at once leave more than an epoch, which the third uses.
    for names in ("ab", "c"):
        workers = [start(spec, name, slow) for name in names]
        for process in workers:
            process.join()
    assert 4 < used(spec) <= 6
    trained = len(trainer.epochs())
    assert 0.1 * trained < 6
    # A second is left, but none of the trials has an epoch as short as that.
    summary = run_worker(spec, "next", objective=trainer)
    assert (summary.complete, summary.ended) == (0, "gpu hours")
    assert len(trainer.epochs()) == trained
    more = on_gpu(make_spec(gpu_hours=1.0, **options))
    assert run_worker(more, "more", objective=trainer).complete == 4
    assert len(trainer.epochs()) == len(set(trainer.epochs())) == 200
    assert 0.1 * trained <= used(spec) < 2 * (time.monotonic() - began)
    assert list(claims_folder(spec.cache, spec.name).iterdir()) == []


# A killed worker's seconds are counted, up to its last sign of life, and those it had reserved
# are not.
def test_killed_worker(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = on_gpu(make_spec(trials=1, epochs=200, gpu_hours=1.0))
    study = prepare_study(spec)
    process = start(spec, "first", dataclasses.replace(trainer, delay=0.1))
    wait_for_epochs(trainer, 60)
    folder = claims_folder(spec.cache, spec.name)
    assert used(spec) >= 60  # with what is reserved
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert 0.1 * len(trainer.epochs()) - 5.5 < used_seconds(study, folder) < 59


# Of two that reserve at once neither goes beyond the budget, and what one gives back is free.
def test_reservations(make_spec: Any, tmp_path: Path) -> None:
    study = prepare_study(make_spec())
    leases = Leases(tmp_path / "leases", "a")
    claims = [leases.claim(key) for key in "01"]
    gpu, other = (GpuTime(study, leases, tmp_path / "leases", 100.0) for _ in range(2))
    one, two = (of.meter(lease) for of, lease in zip((gpu, other), claims, strict=True) if lease)
    assert one.allows(10)
    assert not two.allows(50)
    assert two.allows(30)
    assert 89 < gpu.committed() <= 100
    two.close()
    assert gpu.committed() < 61
    claims[0].release()  # type: ignore[union-attr]
    assert gpu.committed() < 1


# The CPU's seconds count nothing.
def test_cpu(make_spec: Any, trainer: FakeTrainer) -> None:
    spec = make_spec(trials=2, gpu_hours=6 / 3600)
    slow = dataclasses.replace(trainer, delay=0.05)
    assert run_worker(spec, "w", objective=slow).complete == 2
    assert used(spec) == 0
    assert len(trial_table(open_study(spec))) == 2


# Trainings of one process share its GPU: their seconds add up to those of the wall, what they
# reserve likewise, and two processes count twice.
def test_stack_is_counted_once(make_spec: Any, tmp_path: Path) -> None:
    study = prepare_study(make_spec())
    leases = Leases(tmp_path / "leases", "a")
    gpu, other = (GpuTime(study, leases, tmp_path / "leases", 1000.0) for _ in range(2))
    claims = [leases.claim(key) for key in "0123"]
    start = time.monotonic()
    meters = [gpu.meter(lease) for lease in claims[:3] if lease]
    assert all(meter.allows(30) for meter in meters)
    assert 59.9 < gpu.committed() < 60.1 + time.monotonic() - start
    time.sleep(0.3)
    meters[0].close()
    early = meters[0].total
    time.sleep(0.2)
    for meter in meters[1:]:
        meter.close()
    wall = time.monotonic() - start
    assert sum(meter.total for meter in meters) <= wall
    assert sum(meter.total for meter in meters) > 0.9 * 0.5
    assert meters[0].total == early
    apart = [of.meter(lease) for of, lease in ((gpu, claims[0]), (other, claims[3])) if lease]
    assert all(meter.allows(30) for meter in apart)
    assert 119.9 < gpu.committed() < 120.1 + time.monotonic() - start


# A study on a GPU whose worker trains four trials at once has used no more than the worker took,
# though that is less than all of them took.
def test_stack(make_spec: Any, trainer: FakeTrainer, start: Start) -> None:
    spec = on_gpu(make_spec(trials=4, epochs=10, gpu_hours=1.0, stack=4))
    prepare_study(spec)
    process = start(spec, "w", dataclasses.replace(trainer, delay=0.05, waits=2))
    wait_for_epochs(trainer, 4)  # all are at it at once
    trainer.go.touch()
    process.join()
    summary = json.loads(trainer.diary.with_name("w").read_text())
    assert summary["complete"] == 4
    assert 0.5 <= used(spec) <= summary["seconds"]
