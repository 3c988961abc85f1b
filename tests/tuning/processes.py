"""Workers as processes of their own, none of which outlives its test."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import sqlalchemy
from fake_trainer import FakeTrainer

from ampflow.tuning import storage
from ampflow.tuning.study import StudySpec
from ampflow.tuning.worker import run_worker

Start = Callable[..., BaseProcess]
_HANGS = 300.0  # seconds

# Each is forked from a process that imported the library and did nothing else.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["fake_trainer", "ampflow.tuning.objective", "ampflow.tuning.worker"]
)


def work(spec: StudySpec, worker: str, trainer: FakeTrainer, options: dict[str, Any]) -> None:
    summary = run_worker(spec, worker, objective=trainer, **options)
    trainer.diary.with_name(worker).write_text(json.dumps(dataclasses.asdict(summary)))


def work_until_stopped(
    spec: StudySpec, worker: str, trainer: FakeTrainer, options: dict[str, Any]
) -> None:
    """Work, and stop in the middle of the first transaction that writes after three epochs."""
    storage._FROZEN = 1
    remaining = [1]

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE")) and len(trainer.epochs()) >= 3 and remaining:
            remaining.clear()
            os.kill(os.getpid(), signal.SIGSTOP)

    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", stop)
    work(spec, worker, trainer, options)


@contextmanager
def starting() -> Iterator[Start]:
    """Yield what starts a worker; kill those that are left."""
    started: list[BaseProcess] = []

    def start(
        spec: StudySpec, worker: str, trainer: Any, target: Any = work, **options: Any
    ) -> BaseProcess:
        process = _context.Process(target=target, args=(spec, worker, trainer, options))
        process.start()
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()  # also one that is stopped
            process.join()


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Wait until `condition()` is true; fail after a time that only a hang would take."""
    until = time.monotonic() + _HANGS
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.005)


def wait_for_epochs(trainer: FakeTrainer, number: int) -> None:
    wait_for(f"{number} epochs", lambda: len(trainer.epochs()) >= number)


def wait_until_stopped(process: BaseProcess) -> None:
    stopped = psutil.STATUS_STOPPED
    wait_for("a stopped worker", lambda: psutil.Process(process.pid).status() == stopped)
