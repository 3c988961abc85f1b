"""Processes that end with the one that started them, even if that is killed.

The standard input of a child is a pipe that its parent holds and says next to nothing into. The
operating system closes it when the parent ends, however it ends, and so the child knows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping

__all__ = ["end_with_parent", "release_child", "start_child", "stop_child"]

_STOP_SECONDS = 40.0  # for what has to report its end to a server first


def start_child(
    module: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    needs: subprocess.Popen[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments...`; the module calls `end_with_parent`.

    Parameters
    ----------
    environment
        What the child's environment has beside this process's own.
    needs
        Another child, which is to live as long as this one even if this process is killed.
    """
    debugging = bool(os.environ.get("AMPFLOW_DEBUG"))
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        bufsize=0,  # nothing that a child which died did not read is in the way of closing
        stdout=None if debugging else subprocess.DEVNULL,
        stderr=None if debugging else subprocess.DEVNULL,
        env=os.environ | dict(environment or {}),
        pass_fds=[needs.stdin.fileno()] if needs and needs.stdin else [],
        start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
    )


def release_child(child: subprocess.Popen[bytes]) -> None:
    """Let a child go on that waits for the event of its `end_with_parent`."""
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """End a child as its parent's end does, and wait; kill it if it does not come to an end."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def end_with_parent(ending: signal.Signals = signal.SIGTERM) -> threading.Event:
    """Let this process, a child, be terminated when its parent has ended or calls `stop_child`.

    Parameters
    ----------
    ending
        The signal that ends it then. With another one than SIGTERM it is deaf to that: the end of
        a batch job is told to all its processes at once, and the parent needs this one to the end.

    Returns
    -------
    threading.Event
        Set when the parent calls `release_child`.
    """
    if ending != signal.SIGTERM:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    released = threading.Event()
    threading.Thread(target=_watch, args=(released, ending), daemon=True).start()
    return released


def _watch(released: threading.Event, ending: signal.Signals) -> None:
    while os.read(sys.stdin.fileno(), 1):
        released.set()
    os.kill(os.getpid(), ending)
