"""`ampflow jobs`: this user's jobs in the queue, and what they train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ampflow.errors import OptionError

__all__ = ["app"]

app = typer.Typer(
    help="Your jobs in the queue: list them with the trials they train, cancel them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_command()


@app.command("list")
def list_command() -> None:
    """List your jobs of ampflow: state, node, time left, and the trials that each is training."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ampflow.clusters.queue import queued_jobs
    from ampflow.runs import list_runs

    jobs, runs = queued_jobs(), list_runs()
    if not jobs:
        typer.echo("No jobs of ampflow in the queue.")
        return
    drivers = {run.job: f"driver of {run.name}" for run in runs if run.job}
    trained = _trained(sorted({run.cache for run in runs if run.code is None}))
    table = Table("job", "name", "state", "node", "time left", "does", box=box.SIMPLE_HEAD)
    for job in jobs:
        does = drivers.get(job.id) or ", ".join(trained.get(job.id, []))
        table.add_row(job.id, job.name, job.state, job.node, job.left, does)
    Console().print(table)


def _trained(caches: list[str]) -> dict[str, list[str]]:
    """Return the trials that each job is training."""
    from ampflow.tuning.catalogue import held_trials

    trained: dict[str, list[str]] = {}
    for cache in caches:
        for held in held_trials(Path(cache)):
            job = held.holder.job.partition(".")[0]
            trained.setdefault(job, []).append(f"trial {held.number} ({held.holder.worker})")
    return trained


@app.command()
def cancel(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Numbers of jobs.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of ampflow's, drivers of detached runs too.")
    ] = False,
) -> None:
    """Cancel jobs. A run that still goes on replaces its jobs: to end it, `ampflow stop`."""
    from ampflow.clusters.queue import cancel_jobs, queued_jobs
    from ampflow.runs import list_runs

    known = [job.id for job in queued_jobs()]
    if not ids and not everything:
        raise OptionError("no jobs are named", "ampflow jobs cancel ID, or --all")
    wrong = [number for number in ids or [] if number not in known]
    if wrong:
        raise OptionError(
            f"{', '.join(wrong)}: not among your jobs of ampflow", "ampflow jobs lists them"
        )
    drivers = {run.job for run in list_runs()}  # first, as they submit others
    chosen = sorted(known if everything else ids or [], key=lambda job: job not in drivers)
    cancel_jobs(chosen)
    typer.echo(f"Cancelled {', '.join(chosen) or 'nothing'}.")
