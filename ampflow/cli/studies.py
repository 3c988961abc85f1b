"""`ampflow studies`: look at what was searched, and delete it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.errors import OptionError

if TYPE_CHECKING:
    from ampflow.tuning.study import StudySummary

__all__ = ["app"]

app = typer.Typer(
    help="The studies of an experiment's cache: list, show, copy, replay or delete them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CacheOption = Annotated[
    Path,
    typer.Option(
        "--cache", help="Cache folder of the experiment (by default `cache` inside its `out`)."
    ),
]


def _without_password(url: str) -> str:
    """Refuse a URL with a password, which every user of this machine could read in `ps`."""
    from ampflow.experiment import Tuning

    try:
        return Tuning(storage=url).storage
    except ValueError:
        raise OptionError(
            "the URL of the database holds a password, which others can see in a list of processes",
            "put it into AMPFLOW_STORAGE_PASSWORD, or into ~/.config/ampflow/storage-password",
        ) from None


StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        help="URL of the database, where tuning.storage names one.",
        callback=_without_password,
    ),
]
_CACHE = Path("ampflow-results/cache")


@app.command("list")
def list_command(cache: CacheOption = _CACHE, storage: StorageOption = "") -> None:
    """List the studies: how many trials, and the best of them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("study", "complete", "pruned", "failed", "running", "best", box=box.SIMPLE_HEAD)
    for study in _studies(cache, storage):
        best = "" if study.best_value is None else f"{study.best_value:.4g} eV"
        counts = (study.complete, study.pruned, study.failed, study.running)
        table.add_row(study.name, *map(str, counts), best)
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The study, or the beginning of its name.")],
    cache: CacheOption = _CACHE,
    storage: StorageOption = "",
) -> None:
    """Show what a study searches, and all its trials, the best first."""
    import json

    from ampflow.cli.display import show_trial_table
    from ampflow.tuning.study import trials_of

    study = _find(name, cache, storage)
    described = dict(study.described)
    space = described.pop("space", {})
    typer.echo(f"{study.name} in {study.location}")
    for key, value in {**described, **{f"space.{k}": v for k, v in space.items()}}.items():
        typer.echo(f"  {key} = {json.dumps(_given(value))}")
    trials = trials_of(study.name, cache, storage)
    show_trial_table(trials, space, len(trials))


def _given(value: object) -> object:
    """Leave out of a range what is not set."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None and item is not False}
    return value


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="The study, or the beginning of its name.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help='Where to: the URL of a database, or "journal" for a file in the cache.',
            callback=lambda to: to if to == "journal" else _without_password(to),
        ),
    ],
    cache: CacheOption = _CACHE,
    storage: StorageOption = "",
) -> None:
    """Copy a study with all its trials to another storage. Set tuning.storage to go on there."""
    from ampflow.tuning.study import copy_study

    study = _find(name, cache, storage)
    trials = copy_study(study.name, cache, storage, to="" if to == "journal" else to)
    typer.echo(f"Copied {study.name} with {trials} trials, and compared all of them.")


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="The study, or the beginning of its name.")],
    cache: CacheOption = _CACHE,
    storage: StorageOption = "",
) -> None:
    """Propose the hyperparameters of every trial again, from what its sampler saw, and compare."""
    from ampflow.tuning.replay import replay_study

    found = replay_study(_find(name, cache, storage).name, cache, storage)
    typer.echo(f"{len(found.agree)} trials are proposed the same again.")
    if found.unknown:
        typer.echo(f"{len(found.unknown)} do not say what their sampler saw.")
    for number, (before, now) in found.differ.items():
        typer.echo(f"Trial {number} differs: was {before}, is {now}")
    if found.differ:
        raise typer.Exit(1)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The study, or the beginning of its name.")],
    cache: CacheOption = _CACHE,
    storage: StorageOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study's trials. Trained networks stay in the cache: other studies may use them."""
    from ampflow.tuning.study import delete_study

    study = _find(name, cache, storage)
    if not yes:
        typer.confirm(f"Delete {study.name} with {study.finished} finished trials?", abort=True)
    delete_study(study.name, cache, storage)
    typer.echo(f"Deleted {study.name}.")


def _studies(cache: Path, storage: str) -> list[StudySummary]:
    from ampflow.tuning.study import list_studies

    if not storage and not cache.is_dir():
        raise OptionError(f"{cache}: no such folder", "--cache OUT/cache, or --storage URL")
    return list_studies(cache, storage)


def _find(name: str, cache: Path, storage: str) -> StudySummary:
    found = [study for study in _studies(cache, storage) if study.name.startswith(name)]
    if len(found) != 1:
        what = "no such study" if not found else f"{len(found)} studies begin so"
        raise OptionError(f"{name}: {what}", f"ampflow studies list --cache {cache}")
    return found[0]
