"""Runs that outlive the terminal: `ampflow run --detach`, `ampflow status`, `ampflow stop`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.errors import AmpflowError, OptionError

if TYPE_CHECKING:
    from ampflow.experiment import Experiment
    from ampflow.runs import Run, State

__all__ = ["detach", "recorded", "register", "run_states"]

_RUN = "AMPFLOW_RUN"  # name of the detached run that this process does
_LOOK = 1.0  # seconds between two looks at whether to stop
_STOP_SECONDS = 120.0
_SHOWN = 10

RunArgument = Annotated[
    str, typer.Argument(help="The run, or the beginning of its name.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (status, stop):
        app.command()(command)


def status(name: RunArgument = "") -> None:
    """Show your runs, those of `ampflow run --detach` and others: how far, and where.

    With a run's name: all about that one, and the end of its log.
    """
    from ampflow.runs import list_runs

    runs, states = list_runs(), run_states()
    if name:
        _show(_find(name, states), states)
        return
    if not runs:
        typer.echo("No runs yet.")
        return
    for run in runs[:_SHOWN]:
        where = f" on {run.cluster}" if run.cluster else ""
        job = f", job {run.job}" if run.job else ""
        typer.secho(run.name, bold=True, nl=False)
        typer.echo(f"  {states[run.name]}{where}{job}  {run.out}")
        if run.note():
            typer.echo(f"    {run.note()}")


def stop(name: RunArgument = "") -> None:
    """Stop a run, by default the one that goes on. The same command later goes on from there."""
    from ampflow.runs import find_run

    states = run_states()
    run = find_run(name, states)
    if states[run.name] not in ("queued", "running", "unknown"):
        raise OptionError(f"{run.name}: {states[run.name]} already", "ampflow status")
    if states[run.name] == "queued":
        _cancel(run)
    else:
        run.stop_file.touch()
        if not _has_ended(run.name):
            _cancel(run)
    typer.echo(f"Stopped {run.name}. Nothing is lost: run it again to go on.")


def detach(experiment: Experiment) -> None:
    """Begin a run that does not end with this terminal: a job of the cluster, else a process.

    Raises
    ------
    AmpflowError
        If the job cannot be submitted.
    """
    from ampflow.clusters.shelf import find_profile
    from ampflow.experiment_file import render_experiment
    from ampflow.files import write_text
    from ampflow.layout import Layout
    from ampflow.runs import new_run

    layout = Layout.of(experiment)
    run = new_run(layout.out, layout.cache, experiment.cluster)
    write_text(run.experiment, render_experiment(experiment))
    if experiment.cluster and find_profile(experiment.cluster).scheduler != "local":
        run = submit(run)
        typer.echo(f"Submitted {run.name} as job {run.job}.")
    else:
        _start(run)
        typer.echo(f"Started {run.name}.")
    typer.echo(
        f"  how far it is:  ampflow status {run.name}\n  to stop it:     ampflow stop {run.name}"
    )
    typer.echo(f"  its output:     {run.log}")


def submit(run: Run) -> Run:
    """Submit a detached run as a job, which submits the others.

    Raises
    ------
    AmpflowError
        If the scheduler refuses it.
    """
    from ampflow.clusters.jobs import driver_script, submit_script
    from ampflow.clusters.shelf import find_profile

    profile = find_profile(run.cluster)
    return run.update(job=submit_script(profile, driver_script(profile, run.log, _command(run))))


def _command(run: Run) -> list[str]:
    ampflow = Path(sys.executable).with_name("ampflow")
    return ["env", f"{_RUN}={run.name}", str(ampflow), "run", str(run.experiment)]


def _start(run: Run) -> None:
    with run.log.open("ab") as log:
        subprocess.Popen(
            _command(run), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


@contextmanager
def recorded(experiment: Experiment, lines: Callable[[], list[str]]) -> Iterator[str]:
    """Record that this process does a run, so that `ampflow status` and `stop` find it.

    Yields its name.

    A detached run whose job is about to end stops here, and submits itself again.

    Parameters
    ----------
    lines
        How far each step is.
    """
    from ampflow.layout import Layout
    from ampflow.runs import find_run, new_run

    layout, detached = Layout.of(experiment), os.environ.pop(_RUN, "")
    run = find_run(detached, {}) if detached else new_run(
        layout.out, layout.cache, experiment.cluster
    )  # fmt: skip
    watch = _Watch(run.begin(), lines)
    code = 1
    try:
        yield run.name
        code = 0
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        watch.close()
        if watch.job_is_over and detached:
            submit(run)
            typer.echo("The job's time is over; the run goes on in another one.", err=True)
        else:
            run.update(code=code, holder=watch.run.holder)


class _Watch:
    """Notes how far a run is, and interrupts it when it is asked to stop or its job ends."""

    def __init__(self, run: Run, lines: Callable[[], list[str]]) -> None:
        from ampflow.tuning.limits import job_end, job_margin

        self.run, self._lines = run, lines
        end = job_end()
        # Its workers' jobs have to end before its own does.
        self._end = None if end is None else end - 2 * job_margin()
        self.job_is_over = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ampflow run", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.run.stop_file.unlink(missing_ok=True)

    def _look(self) -> None:
        said = ""
        while True:
            last = self._over.wait(_LOOK)
            now = next(reversed(self._lines()), "")
            if now != said:
                with suppress(OSError):
                    self.run.note_file.write_text(now, encoding="utf-8")
                said = now
            if last:
                return
            self.job_is_over = self._end is not None and time.time() > self._end
            if self.job_is_over or self.run.stop_file.exists():
                os.kill(os.getpid(), signal.SIGINT)
                self._over.wait()


def run_states() -> dict[str, State]:
    """Return the state of each recorded run; the scheduler is asked where that needs it."""
    from ampflow.clusters.queue import QueueError, has_queue, queued_jobs
    from ampflow.runs import list_runs, state_of

    runs = list_runs()
    jobs: dict[str, str] | None = None
    if any(run.job and run.code is None for run in runs) and has_queue():
        with suppress(QueueError):
            jobs = {job.id: job.state for job in queued_jobs()}
    return {run.name: state_of(run, jobs) for run in runs}


def _find(name: str, states: dict[str, State]) -> Run:
    from ampflow.runs import find_run

    return find_run(name, states)


def _show(run: Run, states: dict[str, State]) -> None:
    lines = {
        "run": run.name,
        "state": states[run.name],
        "how far": run.note(),
        "results": run.out,
        "cluster": run.cluster or "this machine",
        "job": run.job,
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.submitted)),
        "log": run.log if run.log.exists() else "",
    }
    for title, value in lines.items():
        if value:
            typer.echo(f"{title:<9}{value}")
    if states[run.name] == "killed":
        typer.echo("It was killed. Nothing is lost: run it again to go on.")
    with suppress(OSError):
        end = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:]
        typer.echo("\n" + "\n".join(end))


def _has_ended(name: str) -> bool:
    from ampflow.runs import find_run

    until = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < until:
        states = run_states()
        run = find_run(name, states)
        ended = states[run.name] in ("stopped", "done", "failed", "killed")
        if ended and not _in_queue(run):
            return True
        time.sleep(_LOOK)
    return False


def _in_queue(run: Run) -> bool:
    """Tell whether the job of a run is still there; not known is no."""
    from ampflow.clusters.queue import QueueError, queued_jobs

    with suppress(QueueError):
        return bool(run.job) and any(job.id == run.job for job in queued_jobs())
    return False


def _cancel(run: Run) -> None:
    """End a run that does not end by itself."""
    from ampflow.clusters.queue import cancel_jobs
    from ampflow.tuning.leases import Holder

    if run.job:
        cancel_jobs([run.job])
    elif run.holder and (holder := Holder(**run.holder)).is_here:
        with suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)
    else:
        raise AmpflowError(
            f"{run.name} runs on another machine and does not answer",
            f"log in there: {run.holder.get('host', '')}".rstrip(": "),
        )
    run.update(code=130)
