"""How long work tells whoever watches how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "silent", "watch", "watched_by"]


class Progress(Protocol):
    """Called by long work: `done` of `total` (None: unknown) units, with a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Take note that `done` of `total` units are finished."""


def silent(done: int, total: int | None, note: str = "") -> None:
    """Watch nothing."""


_watcher: Callable[[str], Progress] | None = None


@contextmanager
def watched_by(watcher: Callable[[str], Progress]) -> Iterator[None]:
    """Let `watcher(step)` make the progress of every step of this process, while inside.

    A process has one terminal, so it has one watcher: the command line's.
    """
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def watch(step: str) -> Progress:
    """Return the progress of a step: the watcher's, or a silent one."""
    return silent if _watcher is None else _watcher(step)
