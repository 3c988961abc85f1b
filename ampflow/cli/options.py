"""Arguments that several subcommands share, and the experiment they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ampflow.errors import OptionError

if TYPE_CHECKING:
    from ampflow.experiment import Experiment

__all__ = [
    "ClusterOption",
    "DataOption",
    "FileArgument",
    "OutOption",
    "SetOption",
    "WorkersOption",
    "read_experiment",
]

FileArgument = Annotated[
    Path | None,
    typer.Argument(help="Experiment file (TOML), see `ampflow init`.", show_default=False),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="File of structures, or a glob in quotes; may be repeated. Instead of data.files.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results. Instead of `out`.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any option of the experiment file, as `section.option=value`; may be repeated. "
        "Example: `--set tuning.trials=50`.",
        show_default=False,
    ),
]


ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Let jobs of this cluster do the work: a profile of `ampflow clusters`, or a file "
        "of one (.toml). Instead of `cluster`.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="How many trials are trained at a time. Instead of tuning.workers.",
        min=1,
        show_default=False,
    ),
]


def read_experiment(
    file: Path | None,
    data: list[str] | None,
    out: Path | None,
    overrides: list[str] | None,
    cluster: str | None = None,
    workers: int | None = None,
) -> Experiment:
    """Make the experiment that the command line describes.

    Raises
    ------
    OptionError
        If it names neither a file nor data, or an option is wrong.
    """
    from ampflow.experiment_file import load_experiment, make_experiment

    if file is None and not data:
        raise OptionError(
            "neither an experiment file nor --data is given",
            "ampflow run experiment.toml, or ampflow run --data structures.traj --out results",
        )
    changes: dict[str, Any] = {"data": {"files": data}} if data else {}
    if out is not None:
        changes["out"] = str(out)
    if cluster is not None:
        changes["cluster"] = str(Path.cwd() / cluster) if cluster.endswith(".toml") else cluster
    if workers is not None:
        changes["tuning"] = {"workers": workers}
    if file is None:
        return make_experiment(changes, overrides or ())
    return load_experiment(file, overrides or (), changes)
