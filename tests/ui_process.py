"""`ampflow ui` as a user has it: a process that says when it is ready."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ampflow.cli.engine import free_port

TINY = """
out = "results"
[data]
files = ["structures.traj"]
[fingerprints]
sigmas = [0.5, 1.5]
orders = [0, 1]
[training]
epochs = {epochs}
[tuning]
trials = {trials}
workers = 1
"""
_READY_SECONDS = _END_SECONDS = 240  # a hang is to fail, a slow machine is not


@dataclass
class Ui:
    """A running `ampflow ui`."""

    process: subprocess.Popen[str]
    address: str
    said: str

    def family(self) -> list[psutil.Process]:
        """The process and all that it started, directly or not."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        code = self.process.wait(_END_SECONDS)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return code


@contextmanager
def running_ui(
    folder: Path, environment: Mapping[str, str], *arguments: str | Path
) -> Iterator[Ui]:
    """Start `ampflow ui` in a folder, wait until it is ready, and stop it in the end."""
    port = free_port()
    command = [Path(sys.executable).with_name("ampflow"), "ui", *arguments, "--port", str(port)]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(_READY_SECONDS, process.kill)
    watchdog.start()
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            said += line
            assert line, f"ampflow ui ended before it was ready: {said}"
        watchdog.cancel()
        api = environment.get("PREFECT_API_URL", "")
        yield Ui(process, api.removesuffix("/api") or f"http://127.0.0.1:{port}", said)
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(_END_SECONDS)
        process.stdout.close()


def api(address: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask Prefect's server at `address`: GET, or POST where there is a body."""
    request = urllib.request.Request(
        f"{address}/api{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
