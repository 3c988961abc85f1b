"""A user of a cluster: her shell, profiles, structures and results, and what becomes of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from private_slurm import Slurm, wait_for

from ampflow.tuning.catalogue import list_studies, trials_of
from ampflow.tuning.leases import Leases
from ampflow.tuning.objective import Potentials

__all__ = ["SiteUser", "hidden", "let_go", "result_of"]

_PROFILE = {
    "cores": 1,
    "memory": "1 GB",
    "interface": "lo",
    "walltime": "00:30:00",
    "maximum_jobs": 4,
}
_DIALECTS = {
    "slurm": {"scheduler": "slurm", "queue": "pace-ice"},
    "torque": {"scheduler": "torque", "queue": "pace-ice-gpu", "gpus": 1},
}
_TOLD, _ENDS = 6, (1, 2, 3)  # in Optuna's journal: a trial's state, and those that end it


class SiteUser:
    """Somebody who works in `cwd`, with results in `out` and a configuration of her own."""

    def __init__(
        self, slurm: Slurm, environment: Mapping[str, str], structures: Path, folder: Path
    ) -> None:
        self.slurm, self.structures = slurm, structures
        self.cwd, self.out = folder / "cwd", folder / "out"
        self.cwd.mkdir(parents=True)
        self.state = folder / "state"
        self._profiles = folder / "config" / "ampflow" / "clusters"
        own = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(self.state)}
        self.environment = dict(environment) | slurm.environment | own
        self._processes: list[subprocess.Popen[str]] = []
        self._before = {job["JobId"] for job in slurm.jobs()}

    def profile(self, name: str, dialect: str = "slurm", **options: object) -> str:
        """Write a profile and return its name."""
        self._profiles.mkdir(parents=True, exist_ok=True)
        chosen = _PROFILE | _DIALECTS[dialect] | options
        lines = [f"{key} = {json.dumps(value)}" for key, value in chosen.items()]
        (self._profiles / f"{name}.toml").write_text("\n".join(lines))
        return name

    def tuning(
        self, cluster: str, *, command: str = "tune", trials: int = 2, epochs: int = 5,
        workers: int = 2, more: tuple[str, ...] = (),
    ) -> list[str]:  # fmt: skip
        """Return the arguments of a search on the cluster."""
        options = {
            "tuning.trials": trials, "training.epochs": epochs, "tuning.pruner": "none",
            "training.checkpoint_seconds": 0.5, "tuning.sampler": "random",
        }  # fmt: skip
        settings = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
        data = ["--data", str(self.structures), "--out", str(self.out)]
        jobs = ["--cluster", cluster] if cluster else []
        return [command, *data, *settings, *jobs, "--workers", str(workers), *more]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command; what it says is read by `end`."""
        return self.run([str(Path(sys.executable).with_name("ampflow")), *arguments])

    def run(self, command: list[str]) -> subprocess.Popen[str]:
        """Start any command likewise."""
        log = (self.cwd.parent / f"said-{len(self._processes)}.log").open("w")
        with log:
            process = subprocess.Popen(
                command, cwd=self.cwd, env=self.environment, text=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._processes.append(process)
        process.log = Path(log.name)  # type: ignore[attr-defined]
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a command's end; return its exit code and what it said."""
        code = process.wait(600)
        return code, process.log.read_text()  # type: ignore[attr-defined]

    def ampflow(self, *arguments: str, code: int = 0) -> str:
        """Run the command, which ends with `code`, and return what it says."""
        got, said = self.end(self.start(*arguments))
        assert got == code, said
        return said

    def submitted(self, queue: str = "") -> list[dict[str, str]]:
        """Return the jobs since this user came, those of one queue: see `Slurm.jobs`."""
        jobs = [job for job in self.slurm.jobs() if job["JobId"] not in self._before]
        return [job for job in jobs if not queue or job["Partition"] == queue]

    def flow_states(self) -> list[set[str]]:
        """Return in which states Prefect's server shows the flows of each run, oldest first."""
        return [self._flow_states(record.stem) for record in self._runs()]

    def codes(self) -> list[int | None]:
        """Return the exit code of each run, oldest first; None of those that go on."""
        return [json.loads(record.read_text())["code"] for record in self._runs()]

    def _runs(self) -> list[Path]:
        return sorted((self.state / "ampflow" / "runs").glob("*.json"))

    def _flow_states(self, run: str) -> set[str]:
        request = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}/flow_runs/filter",
            data=json.dumps({"flow_runs": {"tags": {"any_": [run]}}}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return {flow["state_name"] for flow in json.load(response)}

    def trials(self) -> pd.DataFrame:
        """Return the table of the one study's trials."""
        (study,) = list_studies(self.out / "cache")
        return trials_of(study.name, self.out / "cache")

    def endings(self) -> dict[int, int]:
        """Return how often the end of each trial is told in the one study's journal."""
        entries = [json.loads(line) for line in self._journal().read_text().splitlines()]
        return Counter(
            entry["trial_id"]
            for entry in entries
            if entry["op_code"] == _TOLD and entry.get("state") in _ENDS
        )

    def _journal(self) -> Path:
        (journal,) = (self.out / "cache" / "studies").glob("*.log")
        return journal

    def epochs(self) -> dict[str, list[float]]:
        """Return the seconds of each epoch in each checkpoint, by the name of its folder.

        They are never the same twice: a training that was continued has them, a repeated one has
        others.
        """
        reader, cache = Potentials(Path(), Path()), self.out / "cache"
        found = {}
        for path in (cache / "trials").glob("*/checkpoint.safetensors"):
            with suppress(OSError):
                found[path.parent.name] = [epoch.seconds for epoch in reader.done(path)]
        return {name: seconds for name, seconds in found.items() if seconds}

    def results(self) -> dict[str, list[float]]:
        """Return the seconds of each epoch of each finished training."""
        paths = (self.out / "cache" / "trials").glob("*/result.json")
        return {path.parent.name: json.loads(path.read_text())["seconds"] for path in paths}

    def hold(self, trials: int) -> list[psutil.Process]:
        """Stop the workers where they are if so many trials have checkpoints, and return them.

        However fast the machine is, they are not done before they are let go, or killed. Those
        that are there too early are slowed down, however late others begin.
        """
        held, known = [], self.epochs()
        for name, holder in Leases(self.out / "cache" / "claims" / "trials", "").holders().items():
            if name in known:
                with suppress(psutil.NoSuchProcess):
                    worker = psutil.Process(holder.pid)
                    worker.suspend()
                    held.append(worker)
        # Others wait for one that has the journal locked, and Dask for an answer of each.
        if len(held) == trials and not any(has_locked(each.pid, self._journal()) for each in held):
            return held
        time.sleep(2 if held else 0)
        let_go(held)
        return []

    def wait_and_hold(
        self, trials: int, run: subprocess.Popen[str] | None = None
    ) -> list[psutil.Process]:
        """Wait until so many trials are in training, and hold their workers: see `hold`."""
        held: list[psutil.Process] = []

        def are_held() -> list[psutil.Process]:
            assert run is None or run.poll() is None, run and self.end(run)[1]
            held[:] = self.hold(trials)
            return held

        wait_for(f"{trials} trainings under way", are_held)
        return held

    def check_study(self, trials: int, epochs: int) -> None:
        """See that each trial was trained to its end, and told once."""
        table = self.trials()
        assert list(table["number"]) == list(range(trials))
        assert set(table["state"]) == {"complete"}
        assert list(table["epochs"]) == [epochs] * trials
        assert self.endings() == dict.fromkeys(range(trials), 1)
        assert [len(seconds) for seconds in self.results().values()] == [epochs] * trials

    def check_continued(self, before: Mapping[str, list[float]]) -> None:
        """See that trainings went on from the epochs they had, instead of beginning again."""
        assert before
        results = self.results()
        for name, seconds in before.items():
            assert results[name][: len(seconds)] == seconds

    def check_nothing_left(self) -> None:
        """See that no job, process or stray file is left."""
        wait_for("an empty queue", lambda: not self.slurm.queue())
        assert list(self.cwd.iterdir()) == []
        jobs = self.out / "cache" / "jobs"
        wait_for("no fleet's folder", lambda: not jobs.exists() or not list(jobs.iterdir()))
        wait_for("no process of ours", lambda: not self._left())
        assert list((self.out / "cache").rglob("*.tmp")) == []

    def _left(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_own(process)]

    def _is_own(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.environ().get("XDG_STATE_HOME") == str(self.state)
        return False

    def leave(self) -> None:
        """End all that this user has running."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        for job in self.slurm.queue():
            self.slurm.cancel(job)
        for left in self._left():
            with suppress(psutil.Error):
                left.kill()
        wait_for("an empty queue", lambda: not self.slurm.queue())


def let_go(held: Iterable[psutil.Process]) -> None:
    """Let workers go on that were held, those that were not killed meanwhile."""
    for worker in held:
        with suppress(psutil.NoSuchProcess):
            worker.resume()


def has_locked(pid: int, path: Path) -> bool:
    """Tell whether a process keeps others out of a file, with flock."""
    locks = (line.split()[1:6] for line in Path("/proc/locks").read_text().splitlines())
    mine = (lock[4].split(":")[2] for lock in locks if lock[0] == "FLOCK" and lock[3] == str(pid))
    return str(path.stat().st_ino) in mine


def hidden(folder: Path, unless: str = "false") -> str:
    """Return a line of a prologue, after which the job sees an empty folder in this one's place."""
    return (
        f'[ -n "$HIDDEN" ] || {unless} || HIDDEN=1 '
        f'exec unshare -m bash -c \'mount -t tmpfs none {folder} && exec bash "$0"\' "$0"'
    )


def result_of(out: Path) -> dict[str, Any]:
    """Return the figures of a report."""
    figures: dict[str, Any] = json.loads((out / "results.json").read_text())
    return figures
