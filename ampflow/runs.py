"""The user's runs: which there are, where, and whether they still go on."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ampflow.errors import OptionError, StorageError
from ampflow.files import read_json, write_json
from ampflow.state import state_folder
from ampflow.tuning.leases import Holder

__all__ = ["Run", "State", "find_run", "list_runs", "new_run", "state_of"]

State = Literal["queued", "running", "done", "failed", "stopped", "killed", "unknown"]

_KEPT_DAYS = 30


@dataclass(frozen=True)
class Run:
    """One `ampflow run`.

    Parameters
    ----------
    name
        Made of when it was begun.
    out, cache
        Its folders.
    cluster
        Profile whose jobs do the work; empty: its own machine.
    submitted
        Seconds since 1970.
    holder
        Its process: `ampflow.tuning.leases.Holder` as a table; empty before it begins.
    job
        The batch job of a detached run on a cluster.
    code
        Its exit code; None before its end.
    """

    name: str
    out: str
    cache: str
    cluster: str
    submitted: float
    holder: dict[str, Any] = field(default_factory=dict)
    job: str = ""
    code: int | None = None

    @property
    def file(self) -> Path:
        """The record."""
        return _folder() / f"{self.name}.json"

    @property
    def experiment(self) -> Path:
        """What a detached run does, as an experiment file."""
        return self.file.with_suffix(".toml")

    @property
    def log(self) -> Path:
        """What a detached run prints."""
        return self.file.with_suffix(".log")

    @property
    def stop_file(self) -> Path:
        """Its being there asks the run to stop."""
        return self.file.with_suffix(".stop")

    @property
    def note_file(self) -> Path:
        """How far the run is, in a line."""
        return self.file.with_suffix(".note")

    def note(self) -> str:
        """Return how far the run is."""
        with suppress(OSError):
            return self.note_file.read_text(encoding="utf-8")
        return ""

    def update(self, **changes: Any) -> Run:
        """Return the run with changes, which are recorded.

        Raises
        ------
        StorageError
            If the record cannot be written.
        """
        changed = replace(self, **changes)
        write_json(self.file, asdict(changed))
        return changed

    def begin(self) -> Run:
        """Record that this process does the run."""
        self.stop_file.unlink(missing_ok=True)
        return self.update(holder=asdict(Holder.here("driver")), code=None)


def new_run(out: Path, cache: Path, cluster: str) -> Run:
    """Record a run that is about to begin.

    Raises
    ------
    StorageError
        If the state folder cannot be written.
    """
    _sweep()
    now = time.time()
    name = f"{time.strftime('%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(2)}"
    return Run(name, str(out), str(cache), cluster, now).update()


def list_runs() -> list[Run]:
    """Return the recorded runs, the newest first."""
    runs = []
    for path in _folder().glob("*.json"):
        with suppress(StorageError, TypeError):  # of another version
            runs.append(Run(**read_json(path)))
    return sorted(runs, key=lambda run: -run.submitted)


def find_run(name: str, states: Mapping[str, State]) -> Run:
    """Return the run whose name begins so; without a name the one that goes on.

    Parameters
    ----------
    states
        Of all runs, by name.

    Raises
    ------
    OptionError
        If it is none, or several.
    """
    going = [run for run in list_runs() if states.get(run.name) in ("queued", "running", "unknown")]
    found = [run for run in list_runs() if run.name.startswith(name)] if name else going
    if not found:
        raise OptionError(f"{name}: no such run" if name else "no run goes on", "ampflow status")
    if len(found) > 1:
        names = ", ".join(run.name for run in found)
        what = f"{name}: several runs" if name else f"{len(found)} runs go on"
        raise OptionError(f"{what}: {names}", "say which one")
    return found[0]


def state_of(run: Run, jobs: Mapping[str, str] | None) -> State:
    """Say whether a run goes on.

    Parameters
    ----------
    jobs
        State of each batch job in the queue, by number; None where the queue was not asked.
    """
    if run.code is not None:
        return {0: "done", 130: "stopped"}.get(run.code, "failed")  # type: ignore[return-value]
    if run.job:
        if jobs is None:
            return "unknown"
        state = jobs.get(run.job)
        return "killed" if state is None else "queued" if state == "queued" else "running"
    if not run.holder:
        return "unknown"
    holder = Holder(**run.holder)
    if not holder.is_here:
        return "unknown"
    return "running" if holder.is_alive() else "killed"


def _folder() -> Path:
    return state_folder() / "runs"


def _sweep() -> None:
    """Forget runs of long ago."""
    for path in _folder().glob("*.json"):
        with suppress(OSError, json.JSONDecodeError):
            if time.time() - path.stat().st_mtime > 86400 * _KEPT_DAYS:
                for left in path.parent.glob(f"{path.stem}.*"):
                    os.unlink(left)  # noqa: PTH108
