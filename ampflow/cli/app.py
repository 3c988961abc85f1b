"""The command's root: what is common to all subcommands, and how errors are shown.

Modules that take long to import (torch, prefect, optuna) are imported where they are used, so
that `ampflow --help` is instant.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import Annotated, cast

import typer

from ampflow.cli import (
    clusters,
    experiments,
    jobs,
    potentials,
    runs,
    server,
    steps,
    store,
    studies,
    ui,
)
from ampflow.errors import AmpflowError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ampflow",
    help="Tuned neural-network potentials from DFT structures.\n\n"
    "Start with `ampflow init`, look at the file it writes, then `ampflow run experiment.toml`; "
    "or try everything at once with `ampflow run --data structures.traj --out results`.\n\n"
    "Exit codes: 0 done, 1 something to mend (the message says what), 2 wrong usage, "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
experiments.register(app)
steps.register(app)
potentials.register(app)
app.add_typer(studies.app, name="studies")
app.add_typer(clusters.app, name="clusters")
app.add_typer(jobs.app, name="jobs")
app.add_typer(server.app, name="server")
runs.register(app)
app.add_typer(store.app, name="store")
ui.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ampflow {version('ampflow')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and Prefect's own log.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and end.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    os.environ["AMPFLOW_DEBUG"] = "1" if debug else ""


def main() -> None:
    """Run the command; end with an exit code that scripts can trust."""
    # Imports and compiling make much and leave little: collecting costs a fifth of a compilation.
    gc.set_threshold(50_000, 20, 50)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        code = app(standalone_mode=False) or 0  # 130 after Ctrl-C
    except AmpflowError as error:
        code = _show(error)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        code = 130 if _interrupted else _show_unexpected(error)
    if code == 130:
        typer.echo("\nInterrupted. Nothing is lost: the same command goes on from here.", err=True)
    sys.stdout.flush()
    sys.exit(code)


_interrupted = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True  # an import that is interrupted may turn it into another error
    raise KeyboardInterrupt


def _debugging() -> bool:
    return bool(os.environ.get("AMPFLOW_DEBUG"))


def _show(error: AmpflowError) -> int:
    if _debugging():
        raise error
    typer.secho(f"Error: {error.what}", fg="red", err=True)
    if error.hint:
        typer.secho(f"  Try: {error.hint}", err=True)
    return 1


def _show_unexpected(error: Exception) -> int:
    if isinstance(error, typer.BadParameter.__base__ or ()):  # wrong usage
        cast(typer.BadParameter, error).show()
        return 2
    if _debugging():
        raise error
    typer.secho(f"Error: {type(error).__name__}: {error}", fg="red", err=True)
    typer.secho(
        "  This was not foreseen. `ampflow --debug ...` shows where it came from.", err=True
    )
    return 1
