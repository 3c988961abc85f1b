"""`ampflow init`, `check`, `run`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.cli.options import (
    ClusterOption,
    DataOption,
    FileArgument,
    OutOption,
    SetOption,
    WorkersOption,
    read_experiment,
)
from ampflow.errors import OptionError

if TYPE_CHECKING:
    from ampflow.experiment import Experiment

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (init, check, run, demo):
        app.command()(command)


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("experiment.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    data: DataOption = None,
) -> None:
    """Write an experiment file: every option with its unit, default and meaning."""
    from ampflow.experiment import Data, Experiment
    from ampflow.experiment_file import render_experiment
    from ampflow.files import write_text

    if file.exists() and not force:
        raise OptionError(f"{file} is already there", "another name, or --force to replace it")
    files = [str(Path.cwd() / pattern) for pattern in data or []]  # valid from any folder
    write_text(file, render_experiment(Experiment(data=Data(files=files))))
    typer.echo(f"Wrote {file}.")
    if not data:
        typer.echo(f"Next: name your structures in data.files, then `ampflow check {file}`.")
    else:
        typer.echo(f"Next: `ampflow check {file}`, then `ampflow run {file}`.")


def check(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
) -> None:
    """Validate an experiment and show what a run would do; computes and writes nothing."""
    experiment = read_experiment(file, data, out, overrides)
    from ampflow.cli.display import show_plan, step_bars
    from ampflow.planning import make_plan

    with step_bars() as bar:
        plan = make_plan(experiment, bar("Reading structures"))
    show_plan(experiment, plan)


def run(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    detached: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Go on without this terminal: as a job of the cluster that submits the others, "
            "or as a process of this machine. See `ampflow status`.",
        ),
    ] = False,
) -> None:
    """Run the whole path: fingerprints, split, tuning, winner, report.

    What is there already is not computed again, so the same command goes on after an
    interruption, and adds trials after `tuning.trials` was raised.

    Examples: `ampflow run experiment.toml`, or
    `ampflow run --data structures.traj --out results --set tuning.trials=50`.
    """
    experiment = read_experiment(file, data, out, overrides, cluster, workers)
    if not detached:
        _run(experiment)
        return
    from ampflow.cli.runs import detach
    from ampflow.cli.steps import check_start

    check_start("pipeline", experiment)
    detach(experiment)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the demo.")] = Path("demo"),
) -> None:
    """Try everything on structures that ampflow makes itself (EMT metals with adsorbates)."""
    from ampflow.demo import write_demo
    from ampflow.experiment import Data, Experiment
    from ampflow.experiment_file import render_experiment
    from ampflow.files import write_text

    file = folder / "experiment.toml"
    write_demo(folder / "structures.traj")
    demo_experiment = Experiment(out="results", data=Data(files=["structures.traj"]))
    write_text(file, render_experiment(demo_experiment))
    typer.echo(f"Wrote {file} and its structures; now `ampflow run {file}`:\n", err=True)
    _run(read_experiment(file, None, None, None))


def _run(experiment: Experiment) -> None:
    from ampflow.cli.display import show_results
    from ampflow.cli.steps import run_flow

    show_results(run_flow("pipeline", experiment))
