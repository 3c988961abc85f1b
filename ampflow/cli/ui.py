"""`ampflow ui`: Prefect's pages, with the flows ready to be started from there."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.cli.options import FileArgument
from ampflow.errors import AmpflowError
from ampflow.progress import Progress

if TYPE_CHECKING:
    from ampflow.experiment import Experiment

__all__ = ["check_port", "register", "server_settings"]

_SERVER, _WORKER = "Prefect's server", "the worker"
_LOOK_SECONDS = 0.5

Children = dict[str, Popen[bytes]]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(ui)


def ui(
    file: FileArgument = None,
    port: Annotated[int, typer.Option(help="Port of the pages.", min=1, max=65535)] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it can run code as you.")
    ] = "127.0.0.1",
) -> None:
    """Watch and start runs in the browser: Prefect's server and its pages, until Ctrl-C.

    Every flow has a form there, whose fields are the options of the experiment file. FILE gives
    what the form shows at first, and what the nightly run does (switched off at first).
    Runs of `ampflow run` are shown as well.

    With PREFECT_API_URL set, or after `ampflow server start`, that server is used, and only a
    worker for the runs is started.
    """
    from ampflow.children import stop_child
    from ampflow.cli.display import step_bars
    from ampflow.experiment_file import load_experiment, make_experiment

    experiment = load_experiment(file) if file else make_experiment({})
    children: Children = {}
    try:
        with step_bars() as bars:
            address = _start(children, experiment, host, port, bars("Starting"))
        _explain(address, children)
        _wait(children)
    except KeyboardInterrupt:
        typer.echo("\nStopping; unfinished runs go on where they are when started again.")
    finally:
        for child in reversed(children.values()):  # the worker's runs report to the server
            stop_child(child)


def _start(
    children: Children, experiment: Experiment, host: str, port: int, progress: Progress
) -> str:
    """Start what is to run, all at once, and return the address of the pages."""
    from ampflow.children import release_child, start_child
    from ampflow.cli.engine import quiet_prefect, start_server, use_server, wait_until_healthy

    quiet_prefect()
    url = use_server()
    if not url:
        url = _api_url(host, port)
        check_port(host, port, url)
        children[_SERVER] = start_server(port, server_settings(port), host)
        os.environ["PREFECT_API_URL"] = url
    progress(0, 3, _SERVER)
    worker = children[_WORKER] = start_child("ampflow.cli.flow_worker", needs=children.get(_SERVER))
    from ampflow.cli.deployments import register_deployments  # 5 s, while the others start

    if _SERVER in children:
        wait_until_healthy(url, children[_SERVER])
    progress(1, 3, "deployments")
    register_deployments(experiment, Path.cwd())
    progress(2, 3, _WORKER)
    release_child(worker)
    progress(3, 3)
    return url.removesuffix("/").removesuffix("/api")


def _api_url(host: str, port: int) -> str:
    reachable = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    return f"http://{reachable}:{port}/api"


def check_port(host: str, port: int, url: str) -> None:
    """Refuse a port that is taken: the server would only end without a word.

    Raises
    ------
    AmpflowError
        If nothing can listen there.
    """
    from ampflow.cli.engine import is_healthy

    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        usual = error.errno in (errno.EADDRINUSE, errno.EACCES)
    if is_healthy(url):
        raise AmpflowError(
            f"a Prefect server answers already at {url}",
            f"open {url.removesuffix('/api')}, or --port {port + 1} for one more; "
            f"PREFECT_API_URL={url} ampflow ui gives the running one a worker",
        )
    raise AmpflowError(
        f"cannot listen on {host}, port {port}: {reason}",
        f"--port {max(port + 1, 1024)}" if usual else "an address of this machine for --host",
    )


def server_settings(port: int) -> dict[str, str]:
    """Return the settings of a server with pages, at this port."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    return {
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_API_URL": "/api",  # relative, so that it also holds behind an SSH tunnel
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # By default the pages are unpacked into site-packages, which may be read-only.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
    }


def _explain(address: str, stopped: Iterable[str]) -> None:
    typer.echo(
        f"Prefect's pages are at {address}\n"
        "  Deployments: each flow with a form to start it; the nightly run has a switch.\n"
        "  Runs: what runs and what ran, also of `ampflow run`.\n"
        f"\n  open {address}\n\n"
        f"Ctrl-C stops {' and '.join(stopped)}, and the runs that were started there."
    )


def _wait(children: Children) -> None:
    """Wait until interrupted.

    Raises
    ------
    AmpflowError
        If a child ended by itself.
    """
    while True:
        for name, child in children.items():
            if child.poll() is not None:
                raise AmpflowError(
                    f"{name} ended (exit code {child.returncode})",
                    "ampflow --debug ui shows its output",
                )
        time.sleep(_LOOK_SECONDS)
