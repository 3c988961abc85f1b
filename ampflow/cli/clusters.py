"""`ampflow clusters`: the profiles, their job scripts, and a try with one tiny job."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.errors import AmpflowError, OptionError

if TYPE_CHECKING:
    from ampflow.clusters.profile import Profile

__all__ = ["app"]

app = typer.Typer(
    help="The clusters whose jobs can do the work: list them, show a job script, try one.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
NameArgument = Annotated[
    str, typer.Argument(help="Profile, as `ampflow clusters` lists it, or a file of one (.toml).")
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_command()


@app.command("list")
def list_command() -> None:
    """List the profiles: those that come with ampflow, and your own."""
    from ampflow.clusters.shelf import list_profiles, own_folder

    for item in list_profiles():
        yours = " (yours)" if item.is_own else ""
        try:
            profile = item.read()
        except OptionError as error:
            typer.secho(f"{item.name}{yours}: not valid", fg="red")
            typer.echo(f"    {error.what}")
            continue
        typer.secho(item.name, bold=True, nl=False)
        typer.echo(f"{yours}  {profile.about}\n    {_described(profile)}")
    typer.echo(f"Your own: {own_folder()}/NAME.toml. Start from one of these:")
    typer.echo("  ampflow clusters show NAME --profile")


def _described(profile: Profile) -> str:
    if profile.scheduler == "local":
        return "a worker a core"
    queue = f", queue {profile.queue}" if profile.queue else ""
    counts = {
        "core": profile.cores, "GPU": profile.gpus, "worker": profile.workers_per_job
    }  # fmt: skip
    each = ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in counts.items() if n)
    return (
        f"{profile.scheduler}{queue}: at most {profile.maximum_jobs} at a time, "
        f"{profile.walltime} each, with {each}, {profile.memory}"
    )


@app.command()
def show(
    name: NameArgument,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show the profile's file with all its options.")
    ] = False,
) -> None:
    """Print the exact script of a job, as it would be submitted."""
    from ampflow.clusters.shelf import find_profile, render_profile

    found = find_profile(name)
    if profile:
        typer.echo(render_profile(found))
        return
    if found.scheduler == "local":
        raise OptionError(f"{name}: workers are processes of this machine, no jobs")
    from ampflow.clusters.jobs import job_script

    typer.echo(job_script(found, "ampflow-RUN", Path("/CACHE/jobs/ampflow-RUN")), nl=False)


@app.command()
def check(
    name: NameArgument,
    folder: Annotated[
        Path, typer.Option(help="Folder for the results of runs, which all nodes have to see.")
    ] = Path(),
    storage: Annotated[
        str, typer.Option(help="URL of the study's database, where tuning.storage names one.")
    ] = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the job to start.")] = 600,
) -> None:
    """Submit one tiny job and report what works from there; exit code 1 if something does not."""
    from rich.console import Console

    from ampflow.cli.engine import quiet_prefect, use_server
    from ampflow.clusters.probe import check_cluster
    from ampflow.clusters.shelf import find_profile

    found = find_profile(name)
    if found.scheduler == "local":
        raise OptionError(f"{name}: workers are processes of this machine, nothing to check")
    quiet_prefect()
    if not os.environ.get("AMPFLOW_DEBUG"):  # what went wrong is said below, without tracebacks
        for logger in ("ampflow", "distributed", "tornado.application"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
    console, failed = Console(), []
    with console.status("Starting") as status:

        def progress(note: str) -> None:
            status.update(f"Waiting for a worker: {note}" if note else "Submitting")

        url = use_server()
        for finding in check_cluster(found, folder.resolve(), storage, url, wait, progress):
            sign = {True: "[green]✓", False: "[red]✗", None: "[dim]-"}[finding.works]
            console.print(f"{sign}[/] {finding.what}: ", end="")
            console.print(finding.said, markup=False, highlight=False)
            if finding.works is False:
                failed.append(finding)
                console.print(f"    Try: {finding.hint}", markup=False, highlight=False)
    if failed:
        raise AmpflowError(
            f"{name}: {len(failed)} of the things that runs need do not work",
            "mend these first",
        )
