"""`ampflow server`: one Prefect server for all runs, that goes on until it is stopped."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ampflow.errors import AmpflowError, OptionError

__all__ = ["app"]

app = typer.Typer(
    help="Prefect's server for all runs and their jobs: start it once, and every `ampflow` "
    "command uses it. Without one, each run starts its own, which ends with it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STOP_SECONDS = 20.0


@app.command()
def start(
    cluster: Annotated[
        str, typer.Option(help="Listen where jobs of this profile reach it, see its `interface`.")
    ] = "",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 4200,
    database: Annotated[
        str,
        typer.Option(
            help="postgresql://user@host/name, for many runs at a time (the password in "
            "~/.pgpass or PGPASSWORD). By default SQLite in PREFECT_HOME."
        ),
    ] = "",
) -> None:
    """Start the server in the background. It listens on this machine alone, unless --cluster."""
    from ampflow.cli.engine import host_for, quiet_prefect, wait_until_healthy
    from ampflow.cli.server_record import ServerRecord, read_record
    from ampflow.cli.ui import check_port, server_settings

    record = read_record()
    if record is not None and record.is_alive():
        raise OptionError(f"a server runs already: {record.url}", "ampflow server stop")
    quiet_prefect()
    host = host_for(cluster)
    url = f"http://{host}:{port}/api"
    check_port(host, port, url)
    outside = host != "127.0.0.1"
    secret = f"ampflow:{secrets.token_urlsafe(24)}" if outside else ""
    settings = server_settings(port) | _database(database)
    if secret:
        settings["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = secret
    process, log = _spawn(host, port, settings)
    wait_until_healthy(url, process, log)
    ServerRecord.of(url, process.pid, secret).write()
    typer.echo(f"Prefect's server listens at {url}\n  pages:  {url.removesuffix('/api')}")
    typer.echo(f"  output: {log}\n  stop:   ampflow server stop")
    if secret:
        typer.echo("  It asks for a password, which ampflow's commands and jobs know: " + secret)


@app.command()
def status() -> None:
    """Show the server; exit code 1 if none runs."""
    from ampflow.cli.engine import is_healthy
    from ampflow.cli.server_record import read_record

    record = read_record()
    if record is None:
        raise AmpflowError("no server runs", "ampflow server start")
    alive = record.is_alive()
    if alive is False:
        raise AmpflowError(f"the server at {record.url} was killed", "ampflow server start")
    if not is_healthy(record.url):
        raise AmpflowError(
            f"the server at {record.url} (on {record.host}) does not answer from here",
            "ampflow server start --cluster NAME listens where other machines reach it",
        )
    typer.echo(f"Prefect's server listens at {record.url} (on {record.host})")


@app.command()
def stop() -> None:
    """Stop the server."""
    from ampflow.cli.server_record import read_record

    record = read_record()
    if record is None:
        raise AmpflowError("no server runs")
    if record.is_alive() is None:
        raise AmpflowError(f"the server runs on {record.host}", "ampflow server stop, there")
    if record.is_alive():
        _end(record.pid)
    record.remove()
    typer.echo("Stopped Prefect's server.")


def _database(url: str) -> dict[str, str]:
    """Return the settings for a database, with the driver that Prefect wants."""
    if not url:
        return {}
    kind, found, rest = url.partition("://")
    if kind not in ("postgresql", "postgres") or not found:
        raise OptionError(f"--database {kind}: not PostgreSQL", "postgresql://user@host/name")
    user = rest.partition("/")[0].rpartition("@")[0]
    if ":" in user:
        raise OptionError("--database holds a password", "put it into ~/.pgpass (mode 600)")
    return {"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{rest}"}


def _spawn(host: str, port: int, settings: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    from ampflow.files import explain_os_error
    from ampflow.state import state_folder

    log = state_folder() / "server.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "ampflow.cli.embedded_server", host, str(port)]
            process = subprocess.Popen(
                [*command, "--alone"],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                env=os.environ | settings, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise explain_os_error(error, log) from error
    return process, log


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
