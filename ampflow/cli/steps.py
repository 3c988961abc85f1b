"""Each step of the pipeline as a command of its own; earlier steps run first if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ampflow.experiment import Experiment

__all__ = ["register", "run_flow"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (fingerprint, split, tune, train, report):
        app.command()(command)


def fingerprint(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
) -> None:
    """Read and check the structures and compute their fingerprints."""
    path = run_flow("fingerprint", read_experiment(file, data, out, overrides, cluster, workers))
    typer.echo(f"Fingerprints: {path}")


def split(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
) -> None:
    """Divide the structures into train, validation and test."""
    from ampflow.splits import PARTS, Splits

    path = run_flow("split", read_experiment(file, data, out, overrides))
    parts = Splits.read(path)
    sizes = ", ".join(f"{len(getattr(parts, part))} {part}" for part in PARTS)
    typer.echo(f"Split: {sizes} structures ({path})")


def tune(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
) -> None:
    """Search the hyperparameters; the study keeps every trial, and goes on when run again."""
    from ampflow.cli.display import show_trials

    show_trials(run_flow("tune", read_experiment(file, data, out, overrides, cluster, workers)))


def train(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
) -> None:
    """Train one potential with the hyperparameters of [training], without a search.

    Example: `ampflow train experiment.toml --set training.lr=0.003 --set training.epochs=300`.
    """
    from ampflow.cli.display import show_results

    show_results(run_flow("train", read_experiment(file, data, out, overrides)))


def report(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the report of the study as it is now, without new trials."""
    from ampflow.cli.display import show_results

    show_results(run_flow("report", read_experiment(file, data, out, overrides)))


def check_start(name: str, experiment: Experiment) -> None:
    """Refuse a flow that cannot begin, before a server is started or a run recorded.

    Raises
    ------
    DataError
        If a file is missing.
    OptionError
        If this is a login node, and the work would be done here.
    """
    from ampflow.clusters.machine import refuse_heavy_work
    from ampflow.reading import expand_files

    expand_files(experiment.data.files)
    command = "run" if name == "pipeline" else name
    # One training is not for jobs: it is done here.
    refuse_heavy_work("" if name == "train" else experiment.cluster, f"ampflow {command}")


def run_flow(name: str, experiment: Experiment) -> Any:
    """Run one of the flows of the package `flows`."""
    from ampflow.cli.display import step_bars
    from ampflow.cli.engine import prefect_engine
    from ampflow.cli.runs import recorded

    check_start(name, experiment)
    with (
        step_bars() as bars,
        recorded(experiment, bars.lines) as run,
        prefect_engine(bars, experiment.cluster, run),
    ):
        import flows

        return getattr(flows, name)(experiment)
