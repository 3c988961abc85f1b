"""Running flows from the command line: Prefect's settings, its server, and what is shown."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ampflow.children import start_child, stop_child
from ampflow.cli.display import Bars
from ampflow.errors import AmpflowError
from ampflow.progress import watch

__all__ = [
    "check_server",
    "free_port",
    "host_for",
    "is_healthy",
    "prefect_engine",
    "quiet_prefect",
    "start_server",
    "use_server",
    "wait_until_healthy",
]

_LOOPBACK = "127.0.0.1"
_SECRET, _SERVER_SECRET = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
_START_SECONDS = 120
# Of a server that only a run uses. It registers no types of blocks, which takes a second, and does
# not note that it has: one with pages, on the same database, is to register them.
_EMBEDDED = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
}


@contextmanager
def prefect_engine(bars: Bars = watch, cluster: str = "", run: str = "") -> Iterator[None]:
    """Let flows run: against the server of PREFECT_API_URL, or one of their own meanwhile.

    Best entered before prefect is imported: the server starts while the imports go on.

    Parameters
    ----------
    bars
        What shows the progress of starting.
    cluster
        Profile of the cluster whose jobs are to reach the server.
    run
        Name of the run, by which its flows are found in Prefect.

    Raises
    ------
    AmpflowError
        If no server answers, or jobs could not reach it.
    """
    quiet_prefect()
    host = host_for(cluster)
    if url := use_server():
        _check_reachable(url, host, cluster)
        with _settings(url, os.environ.get(_SECRET, "")), _named(run):
            yield
        return
    port = free_port(host)
    url = f"http://{host}:{port}/api"
    progress = bars("Starting")
    progress(0, 1, "Prefect's server")
    secret = "" if host == _LOOPBACK else f"ampflow:{secrets.token_urlsafe(24)}"
    server = start_server(port, _EMBEDDED | ({_SERVER_SECRET: secret} if secret else {}), host)
    kept = {"PREFECT_API_URL": url} | ({_SECRET: secret} if secret else {})
    os.environ |= kept
    try:
        import flows  # noqa: F401  # imports while the server starts

        wait_until_healthy(url, server)
        progress(1, 1)
        with _settings(url, secret), _named(run):
            yield
    finally:
        _flush_log()
        for name in kept:
            os.environ.pop(name)
        stop_child(server)


def use_server() -> str:
    """Return the URL of the server that the user named or started; empty if there is none.

    PREFECT_API_URL says where; without it the server of `ampflow server start` is used.

    Raises
    ------
    AmpflowError
        If nobody answers at PREFECT_API_URL.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        check_server(url)
        return url
    from ampflow.cli.server_record import read_record

    record = read_record()
    if record is None or record.is_alive() is False or not is_healthy(record.url):
        return ""
    os.environ["PREFECT_API_URL"] = record.url
    if record.secret:
        os.environ[_SECRET] = record.secret
    return record.url


@contextmanager
def _settings(url: str, secret: str) -> Iterator[None]:
    """Have Prefect, which read its settings at import, maybe long ago, use this server."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: secret or None}):
        yield


@contextmanager
def _named(run: str) -> Iterator[None]:
    """Tag the flows with the run's name, and end those of runs that were killed."""
    from prefect import tags

    from ampflow.cli.crashed import tell_crashed
    from ampflow.cli.runs import run_states

    tell_crashed([name for name, state in run_states().items() if state == "killed"])
    with tags(*filter(None, [run])):
        yield


def host_for(cluster: str) -> str:
    """Return the address for a server: on loopback, unless jobs are to reach it."""
    if not cluster:
        return _LOOPBACK
    from ampflow.clusters.machine import address_for_jobs
    from ampflow.clusters.shelf import find_profile

    profile = find_profile(cluster)
    return _LOOPBACK if profile.scheduler == "local" else address_for_jobs(profile)


def _check_reachable(url: str, host: str, cluster: str) -> None:
    """Refuse a server on loopback for jobs on other machines."""
    if host != _LOOPBACK and urllib.parse.urlsplit(url).hostname in ("localhost", _LOOPBACK):
        raise AmpflowError(
            f"PREFECT_API_URL={url}: jobs of {cluster} cannot reach a server on loopback",
            f"ampflow server start --cluster {cluster}; or unset PREFECT_API_URL to have one "
            "started for this run",
        )


def check_server(url: str) -> None:
    """Refuse a PREFECT_API_URL where nobody answers.

    Raises
    ------
    AmpflowError
        Saying so.
    """
    if not is_healthy(url):
        raise AmpflowError(
            f"PREFECT_API_URL={url}: no Prefect server answers there",
            "start it, or unset PREFECT_API_URL to have one started",
        )


def quiet_prefect() -> None:
    """No telemetry; Prefect's log goes to its server, not to the terminal."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    if not os.environ.get("AMPFLOW_DEBUG"):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def start_server(
    port: int, settings: Mapping[str, str], host: str = "127.0.0.1"
) -> subprocess.Popen[bytes]:
    """Start Prefect's server, with these settings, as a child of this process."""
    return start_child("ampflow.cli.embedded_server", host, port, environment=settings)


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Wait until a server that was started answers at `url` (which ends in /api).

    Raises
    ------
    AmpflowError
        If it ended instead, or takes too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not is_healthy(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise AmpflowError(
                "Prefect's server did not start",
                f"{log or 'ampflow --debug'} shows its output; is its folder (PREFECT_HOME, by "
                "default ~/.prefect) writable, the disk full?",
            )
        time.sleep(0.05)
    if server.poll() is not None:  # another server answered, on a port that it took first
        raise AmpflowError("Prefect's server did not start", "is the port in use?")


def is_healthy(url: str) -> bool:
    """Tell whether a Prefect server answers at `url` (which ends in /api)."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def free_port(host: str = _LOOPBACK) -> int:
    """Return a port of this address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _flush_log() -> None:
    """Send what the log still holds, before the server ends."""
    if "prefect.logging.handlers" in sys.modules:
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all()
