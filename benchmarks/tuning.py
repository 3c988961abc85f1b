"""What ampflow adds to a trial, and how many workers a storage carries; trials only sleep.

    python benchmarks/tuning.py overhead           # against bare Optuna, on each storage
    python benchmarks/tuning.py workers            # 1 to 200 workers, on each storage

`--storage journal` (sqlite, postgresql, mysql) takes one of them. The servers are private ones on
loopback, from Debian's packages.

Utilisation is the part of the workers' time in which they train (here: sleep), given twice:
steady, while all of them train: from when the last of them begins its first trial to when the
first of them ends its last one; and whole, from the start of the workers, which each open the
study first, to the end of the last. Imports come before both. All workers, the servers and
this program share the machine's processors, which on a cluster they would not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna
from optuna.storages import BaseStorage
from servers import mysql_server, postgresql_server

from ampflow.experiment import Range, Training, Tuning
from ampflow.tuning.database import Database
from ampflow.tuning.journal import Journal
from ampflow.tuning.sampling import make_pruner, make_sampler
from ampflow.tuning.space import suggest
from ampflow.tuning.spec import StudySpec
from ampflow.tuning.storage import open_storage
from ampflow.tuning.study import prepare_study, study_summary
from ampflow.tuning.worker import TrialReport, run_worker

STORAGES = ["journal", "sqlite", "postgresql", "mysql"]
SPACE = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "num_layers": Range(low=2, high=6),
    "gamma": Range(low=0.5, high=1.0),
}
EPOCHS = 10
IMPORTED = [
    *("servers", "ampflow.tuning.worker", "ampflow.tuning.cmaes", "optuna.storages._rdb.storage"),
    *("alembic.command", "alembic.migration", "alembic.script", "psycopg2", "pymysql"),
]
CALLS = ("count", "begun", "create", "write", "get_all_trials")
PROCESSES = 8  # with threads in each: 200 processes would be a benchmark of the memory
latencies: list[float] = []  # of this process, seconds
inside = threading.local()  # whether a thread is in a call


@dataclass(frozen=True)
class Epoch:
    number: int
    validation_mae: float
    seconds: float
    train_mae: float = 0.5


@dataclass(frozen=True)
class Outcome:
    history: list[Epoch]
    best_epoch: int
    validation_mae: float


@dataclass
class Sleeping:
    """A trainer that sleeps `seconds` a trial, and notes when. It writes no checkpoints."""

    seconds: float
    began: list[float] = field(default_factory=list)  # when each epoch did

    def train(
        self, options: Training, seed: int, *, checkpoint: Path, on_epoch: Callable[[Epoch], None]
    ) -> Outcome:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        history = []
        each = self.seconds / options.epochs
        for number in range(1, options.epochs + 1):
            self.began.append(time.monotonic())
            time.sleep(each)
            history.append(Epoch(number, error(options, number), each))
            on_epoch(history[-1])
        return Outcome(history, options.epochs, history[-1].validation_mae)

    def done(self, checkpoint: Path) -> list[Epoch]:
        return []


def error(options: Training, epoch: int) -> float:
    return abs(options.lr - 0.01) + (options.num_layers - 3) ** 2 + 1 / epoch


def make_spec(folder: Path, storage: str, epochs: int, name: str, **tuning: Any) -> StudySpec:
    spec = StudySpec(
        store=folder,
        split=folder,
        data_digest=name,
        training=Training(epochs=epochs),
        tuning=Tuning(storage=storage, space=SPACE, **tuning),
        seed=random.getrandbits(30),
        cache=folder / "cache",
    )
    spec.__dict__["trainer_version"] = 0  # the real one would import the trainer
    return spec


@contextmanager
def served(kind: str, folder: Path) -> Iterator[str]:
    """Yield the option tuning.storage for a kind of storage."""
    if kind == "postgresql":
        with postgresql_server() as url:
            yield url
    elif kind == "mysql":
        with mysql_server() as url:
            yield url
    else:
        yield f"sqlite:///{folder}/studies.db" if kind == "sqlite" else ""


def bare_trial(spec: StudySpec, study: optuna.Study, number: int) -> float:
    """Run a trial as Optuna's documentation has it, with the same sampler; its seconds."""
    start = time.perf_counter()
    study.sampler = make_sampler(spec.tuning, spec.seed, number)
    trial = study.ask()
    options = suggest(trial, spec.tuning.space, spec.training)
    for epoch in range(1, options.epochs + 1):
        trial.report(error(options, epoch), epoch)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            break
    else:
        study.tell(trial, error(options, options.epochs))
    return time.perf_counter() - start


def both(spec: StudySpec, storage: BaseStorage) -> tuple[list[float], list[float]]:
    """Run trials with bare Optuna and through the worker in turn; seconds of each."""
    pruner = make_pruner(spec.tuning, spec.training.epochs)
    study = optuna.create_study(study_name=f"bare-{spec.name}", storage=storage, pruner=pruner)
    bare: list[float] = []
    ours: list[float] = []
    last = 0.0

    def then_bare(_: TrialReport) -> None:
        nonlocal last
        ours.append(time.perf_counter() - last)
        bare.append(bare_trial(spec, study, len(bare)))
        last = time.perf_counter()

    run_worker(spec, "w", objective=Sleeping(0), on_trial=then_bare)
    return bare, ours[1:]  # the first has the start of the worker in it


def overhead(kinds: list[str], trials: int, epochs: int, tuning: Any) -> None:
    """Print what a trial costs with bare Optuna and with ampflow, each in turn."""
    print(f"{epochs} epochs, each reported, {tuning}; medians of {trials} trials, ms a trial")
    print("| storage | bare Optuna | ampflow | added |\n|---|---|---|---|")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name, served(kind, Path(name)) as url:
            spec = make_spec(Path(name), url, epochs, "overhead", trials=trials, **tuning)
            times = both(spec, open_storage(url, Path(name) / "bare.log"))
            bare, ours = (1e3 * statistics.median(seconds) for seconds in times)
            print(f"| {kind} | {bare:.1f} | {ours:.1f} | {ours - bare:+.1f} |", flush=True)


def time_calls() -> None:
    """Have every call of a storage timed in this process."""
    for cls in (Journal, Database):
        for name in CALLS:
            setattr(cls, name, timed(getattr(cls, name)))


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if getattr(inside, "a_call", False):  # one that another of them makes
            return method(*args, **options)
        inside.a_call, start = True, time.perf_counter()
        try:
            return method(*args, **options)
        finally:
            inside.a_call = False
            latencies.append(time.perf_counter() - start)

    return call


def process(spec: StudySpec, names: list[str], seconds: float, ready: Any, results: Any) -> None:
    """Run a worker in each of some threads."""
    time_calls()
    trainers = [Sleeping(seconds) for _ in names]
    ready.wait()
    used = time.process_time()
    threads = [
        threading.Thread(target=run_worker, args=(spec, name), kwargs={"objective": trainer})
        for name, trainer in zip(names, trainers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = time.process_time() - used
    results.put(([trainer.began for trainer in trainers], latencies, used))


def workers(kinds: list[str], counts: list[int], seconds: float, rounds: int, tuning: Any) -> None:
    """Print how well so many workers are used."""
    print(f"{seconds:g} s a trial, {EPOCHS} reports each, {rounds} trials a worker, {tuning}")
    print(
        "| storage | workers | trials/s | utilisation: steady, whole | "
        "a call: median, p95 (ms) | CPU of a worker (ms a trial) |"
    )
    print("|---|---|---|---|---|---|")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name, served(kind, Path(name)) as url:
            for count in counts:
                made = make_spec(
                    Path(name), url, EPOCHS, f"w{count}", trials=count * rounds, **tuning
                )
                print(f"| {kind} | {count} | {row(made, count, seconds)} |", flush=True)


def row(spec: StudySpec, count: int, seconds: float) -> str:
    prepare_study(spec)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    many = min(count, PROCESSES)
    ready, results = context.Barrier(many + 1), context.Queue()
    shares = [[f"w{n}" for n in range(start, count, many)] for start in range(many)]
    children = [
        context.Process(target=process, args=(spec, share, seconds, ready, results))
        for share in shares
    ]
    for child in children:
        child.start()
    ready.wait()
    start = time.monotonic()
    said = [results.get() for _ in children]
    end = time.monotonic()
    for child in children:
        child.join()
    done = study_summary(spec).finished
    assert done == spec.tuning.trials, f"{done} of {spec.tuning.trials} trials"
    began = [times for many_times, _, _ in said for times in many_times]
    each = seconds / EPOCHS
    busy = [times for times in began if times]  # the others came when all trials were begun
    all_busy = max(times[0] for times in busy), min(times[-1] + each for times in busy)
    steady, whole = utilisation(busy, each, *all_busy), utilisation(began, each, start, end)
    calls = sorted(call for _, many_calls, _ in said for call in many_calls)
    median, p95 = (1e3 * calls[int(share * len(calls))] for share in (0.5, 0.95))
    used = 1e3 * sum(used for _, _, used in said) / done
    return (
        f"{done / (end - start):.1f} | {steady:.1%}, {whole:.1%} | {median:.1f}, {p95:.1f} | "
        f"{used:.0f}"
    )


def utilisation(began: list[list[float]], each: float, start: float, end: float) -> float:
    """Return the part of the time between `start` and `end` in which workers train.

    An epoch counts with the `each` seconds that it should take: a late awakening is no training.
    """
    trained = sum(
        max(0.0, min(time + each, end) - max(time, start)) for times in began for time in times
    )
    return trained / (len(began) * (end - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "workers"])
    parser.add_argument("--storage", choices=STORAGES, action="append")
    parser.add_argument("--trials", type=int, default=100, help="of each kind")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 50, 100, 200])
    parser.add_argument("--seconds", type=float, default=5.0, help="of a trial")
    parser.add_argument("--rounds", type=int, default=3, help="trials a worker")
    parser.add_argument("--sampler", default="random", help="others think longer")
    parser.add_argument("--pruner", default="none", help="others read the study at each report")
    options = parser.parse_args()
    kinds = options.storage or STORAGES
    tuning = {"sampler": options.sampler, "pruner": options.pruner}
    if options.what == "overhead":
        overhead(kinds, options.trials, options.epochs, tuning)
    else:
        workers(kinds, options.workers, options.seconds, options.rounds, tuning)


if __name__ == "__main__":
    main()
