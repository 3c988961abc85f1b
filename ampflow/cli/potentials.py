"""Commands that use a trained potential."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.cli.options import DataOption, FileArgument, OutOption, SetOption, read_experiment

if TYPE_CHECKING:
    from ampflow.prediction import Errors

__all__ = ["register"]

ModelArgument = Annotated[
    Path,
    typer.Argument(help="Folder of a potential: `model`, or `ensemble`, in the results of a run."),
]
FilesArgument = Annotated[
    list[str],
    typer.Argument(help="Files of structures, anything ASE reads, or globs in quotes."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(predict)
    app.command()(evaluate)
    app.command()(ensemble)
    app.command()(export_amptorch)


def predict(
    model: ModelArgument,
    files: FilesArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A .csv for a table of energies, an .extxyz for structures with them. "
            "Without it the table goes to standard output.",
            show_default=False,
        ),
    ] = None,
    forces: Annotated[
        bool,
        typer.Option(
            "--forces",
            help="Forces as well, and stresses where cells have a volume; needs --out with an "
            ".extxyz.",
        ),
    ] = False,
) -> None:
    """Predict energies (eV), forces (eV/Å) and stresses (eV/Å³) of structures.

    Example: `ampflow predict results/model new.traj --forces --out new.extxyz`.
    """
    from ampflow import prediction
    from ampflow.cli.display import step_bars
    from ampflow.clusters.machine import refuse_heavy_work
    from ampflow.errors import OptionError
    from ampflow.potential.calculator import why_jumps
    from ampflow.potential.ensemble import load_any
    from ampflow.reading import expand_files

    refuse_heavy_work("", "ampflow predict")
    if out is not None:
        prediction.check_output(out, forces)
    elif forces:
        raise OptionError("--forces needs a file for them", "--out predictions.extxyz")
    potential, paths = load_any(model), expand_files(files)
    if out is not None and out.resolve() in {path.resolve() for path in paths}:
        raise OptionError(f"{out}: one of the files to predict", "--out with another name")
    if forces and (why := why_jumps(potential)):
        typer.secho(f"Warning: {why}", fg="yellow", err=True)
    with step_bars() as bars:
        found = prediction.predict(potential, paths, forces=forces, progress=bars("Predict"))
        if out is not None:
            prediction.write(found, out)
        else:
            rows = prediction.table(found)
    if out is None:
        rows.to_csv(sys.stdout, index=False)


def evaluate(
    model: ModelArgument,
    files: FilesArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare a potential with the energies, forces and stresses that the structures have.

    Example: `ampflow evaluate results/model holdout.traj`.
    """
    from ampflow.cli.display import step_bars
    from ampflow.clusters.machine import refuse_heavy_work
    from ampflow.potential.ensemble import load_any
    from ampflow.prediction import evaluate as measure
    from ampflow.reading import expand_files

    refuse_heavy_work("", "ampflow evaluate")
    potential, paths = load_any(model), expand_files(files)
    with step_bars() as bars:
        errors = measure(potential, paths, bars("Evaluate"))
    typer.echo(errors.model_dump_json(indent=2)) if as_json else _show(errors)


def _show(errors: Errors) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "MAE", "RMSE", "structures", header_style="bold")
    energies, forces = errors.structures, errors.structures_with_forces
    stresses = errors.structures_with_stress
    for name, unit, count in (
        ("Energy, eV per structure", "energy_{}_ev", energies),
        ("Energy, meV per atom", "energy_{}_mev_per_atom", energies),
        ("Force components, eV/Å", "forces_{}_ev_per_angstrom", forces),
        ("Stress components, eV/Å³", "stress_{}_ev_per_cubic_angstrom", stresses),
    ):
        if count:
            mae, rmse = (f"{getattr(errors, unit.format(kind)):.4g}" for kind in ("mae", "rmse"))
            table.add_row(name, mae, rmse, f"{count:,}")
    Console().print(table)


def ensemble(
    file: FileArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    overrides: SetOption = None,
    members: Annotated[
        int, typer.Option("--members", help="How many of the best trials.", min=2)
    ] = 5,
    level: Annotated[
        float,
        typer.Option(
            "--level", help="Share of energies that intervals are to hold.", min=0.01, max=0.99
        ),
    ] = 0.9,
) -> None:
    """Join the study's best trials into one potential with intervals of its energies.

    The search runs first if need be. Intervals are calibrated on validation and judged on test.
    """
    from ampflow.cli.steps import run_flow
    from ampflow.clusters.machine import refuse_heavy_work
    from ampflow.committee import make_committee
    from ampflow.layout import Layout

    refuse_heavy_work("", "ampflow ensemble")  # the search may be for jobs, the rest is done here
    experiment = read_experiment(file, data, out, overrides)
    made = make_committee(run_flow("tune", experiment), members, level)
    folder = Layout.of(experiment).out / "ensemble"
    made.ensemble.save(folder)
    figures = made.figures
    typer.echo(
        f"Test, {figures.structures} structures: MAE {figures.mae_ev:.4g} eV (best member "
        f"{figures.best_member_mae_ev:.4g} eV); intervals of {level:.0%}, on average ± "
        f"{figures.half_width_ev:.4g} eV, hold {figures.coverage:.1%}\nEnsemble: {folder}"
    )


def export_amptorch(
    model: ModelArgument,
    files: FilesArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.", show_default=False)],
) -> None:
    """Write AMPTorch's configuration of a potential, and structures as an LMDB that it reads.

    Example: `ampflow export-amptorch results/model train.traj --to for-amptorch`.
    """
    from ampflow.clusters.machine import refuse_heavy_work
    from ampflow.images import Rejected
    from ampflow.potential.amptorch.export import export
    from ampflow.potential.model import Potential
    from ampflow.reading import expand_files, read_images

    refuse_heavy_work("", "ampflow export-amptorch")
    potential = Potential.load(model)
    known = frozenset(potential.fit.references.elements.tolist())
    images = []
    for item in read_images(expand_files(files), (0.0, known)):
        if isinstance(item, Rejected):
            raise item.error()
        images.append(item)
    export(potential, images, to)
    typer.echo(f"{to}: {len(images):,} structures; python config.py there trains on them")
