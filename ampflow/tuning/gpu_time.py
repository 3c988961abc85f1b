"""How long a study's trainings have had a GPU, all runs and workers together, and its budget.

Each training keeps a small ledger beside its trial's lease: the seconds used, written with every
sign of life, and the seconds reserved. A worker that needs more announces it there first, adds
up all ledgers, and takes it back if the sum is above the budget: of several that do so at once
none goes beyond it. What a killed worker had reserved and not used is free again with its lease.
When a trial ends, its seconds are told with it and its ledgers are removed.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from ampflow.tuning.leases import Lease, Leases
from ampflow.tuning.results import end_of

__all__ = ["GpuTime", "Meter", "used_seconds"]

_SLICE = 60.0  # seconds reserved at a time, so that ledgers are added up about once a minute
_FIRST = 1.0  # seconds that must be left for a training to begin
_SUFFIX = "gpu"


class _Shared:
    """A clock of which each second is divided among those who use it.

    Trainings of one process share its GPU: their seconds add up to those of the wall.
    """

    def __init__(self) -> None:
        self._users, self._passed = 0, 0.0
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    def read(self) -> float:
        """Return what one who used it always would have had, in seconds."""
        with self._lock:
            self._look()
            return self._passed

    def use(self, users: int) -> float:
        """Let so many more use it, or less; return what `read` does."""
        with self._lock:
            self._look()
            self._users += users
            return self._passed

    @property
    def users(self) -> int:
        """How many use it now."""
        return self._users

    def _look(self) -> None:
        now = time.monotonic()
        self._passed += (now - self._looked) / max(1, self._users)
        self._looked = now


class GpuTime:
    """The GPU time of a study.

    Parameters
    ----------
    leases
        On the study's trials.
    folder
        Where they are.
    budget
        Seconds; None: no limit.
    """

    def __init__(
        self, study: optuna.Study, leases: Leases, folder: Path, budget: float | None
    ) -> None:
        self._study, self._leases, self._folder, self._budget = study, leases, folder, budget
        self._clock = _Shared()

    def is_used_up(self) -> bool:
        """Tell whether nothing can be begun any more."""
        return self._budget is not None and self.committed() + _FIRST > self._budget

    def fits(self) -> bool:
        """Tell whether all that is used and reserved is within the budget."""
        return self._budget is None or self.committed() <= self._budget

    def committed(self) -> float:
        """Return the seconds used by trainings, and reserved by those that run."""
        ledgers = _ledgers(self._folder)  # first: a trial that ends now is counted by its end
        newest, held = self._leases.newest(), self._leases.holders()
        ended = self._ended()
        total: float = sum(end_of(trial).get("gpu_seconds", 0.0) for trial in ended.values())
        for (key, generation), (used, reserved) in ledgers.items():
            if key not in ended:
                runs = key in held and newest.get(key) == generation
                total += max(used, reserved) if runs else used
        return total

    def meter(self, lease: Lease) -> Meter:
        """Return the meter of a training, under its trial's lease."""
        before = sum(
            used for (key, _), (used, _) in _ledgers(self._folder).items() if key == lease.key
        )
        return Meter(self, _path(lease), before, self._clock)

    def forget(self, key: str) -> None:
        """Remove the ledgers of a trial that ended."""
        for path in self._folder.glob(f"{key}.*.*"):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove ledgers of trials that ended, left by workers killed just after that."""
        for key in {key for key, _ in _ledgers(self._folder)} & self._ended().keys():
            self.forget(key)

    def _ended(self) -> dict[str, FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return {str(trial.number): trial for trial in trials if trial.state.is_finished()}


class Meter:
    """Counts the seconds of one training, from its making until it is closed.

    Of seconds in which `n` trainings of this process share the GPU each has one `n`-th.

    Parameters
    ----------
    before
        Seconds of the same trial before it was interrupted.
    clock
        Of the process.
    """

    def __init__(self, gpu: GpuTime, path: Path, before: float, clock: _Shared) -> None:
        self._gpu, self._path, self._before, self._clock = gpu, path, before, clock
        self._start, self._reserved = clock.use(1), 0.0
        self._end: float | None = None
        self._lock = threading.Lock()

    @property
    def total(self) -> float:
        """Seconds of this trial, all its workers together."""
        return self._before + self._used

    @property
    def _used(self) -> float:
        return (self._clock.read() if self._end is None else self._end) - self._start

    def allows(self, seconds: float = _FIRST) -> bool:
        """Reserve this training's share of the next `seconds`, or more.

        Returns False if the budget has no room for them.
        """
        sharing = self._clock.users
        seconds, slice_ = seconds / sharing, _SLICE / sharing
        if self._used + seconds <= self._reserved:
            return True
        for more in (max(seconds, slice_), seconds):
            self._reserved = self._used + more
            self.write()
            if self._gpu.fits():
                return True
        self._reserved = 0.0
        self.write()
        return False

    def write(self) -> None:
        """Write the ledger: with each sign of life, and when the training ends."""
        with self._lock:
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps([round(self._used, 3), round(self._reserved, 3)]))
            part.replace(self._path)

    def close(self) -> None:
        """Stop counting, and give back what was reserved and not used."""
        self._end, self._reserved = self._clock.use(-1), 0.0
        self.write()


def used_seconds(study: optuna.Study, folder: Path) -> float:
    """Return how long a study's trainings have had a GPU, in seconds.

    Parameters
    ----------
    folder
        Of the study's leases.
    """
    return GpuTime(study, Leases(folder, ""), folder, None).committed()


def _path(lease: Lease) -> Path:
    return lease.path.with_name(f"{lease.path.name}.{_SUFFIX}")


def _ledgers(folder: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Return used and reserved seconds by trial and generation of its lease."""
    ledgers = {}
    for path in folder.glob(f"*.*.{_SUFFIX}"):
        key, generation, _ = path.name.split(".")
        with suppress(FileNotFoundError):  # the trial ended
            used, reserved = json.loads(path.read_text(encoding="utf-8"))
            ledgers[key, int(generation)] = used, reserved
    return ledgers
