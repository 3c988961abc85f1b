"""Processes that end with the one that started them, even if that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

__all__ = ["end_with_parent", "start_child", "stop_child"]

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 40.0  # for what has to report its end to a server first


def start_child(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments...`; the module calls `end_with_parent`.

    Parameters
    ----------
    environment
        What the child's environment has beside this process's own.
    """
    debugging = bool(os.environ.get("AMPFLOW_DEBUG"))
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=None if debugging else subprocess.DEVNULL,
        stderr=None if debugging else subprocess.DEVNULL,
        env=os.environ | dict(environment or {}),
        start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
    )


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """Terminate a child and wait for its end; kill it if it does not come to one."""
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_with_parent(patience: float = 0.0) -> None:
    """Let this process, started by `start_child`, be terminated when its parent is no more.

    Parameters
    ----------
    patience
        Seconds between the two.
    """
    parent = int(sys.argv[-1])
    threading.Thread(target=_watch, args=(parent, patience), daemon=True).start()


def _watch(parent: int, patience: float) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    time.sleep(patience)
    os.kill(os.getpid(), signal.SIGTERM)
