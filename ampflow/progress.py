"""How long work tells whoever watches how far it is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Pace", "Progress", "silent", "watch", "watched_by"]


class Progress(Protocol):
    """Called by long work: `done` of `total` (None: unknown) units, with a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Take note that `done` of `total` units are finished."""


def silent(done: int, total: int | None, note: str = "") -> None:
    """Watch nothing."""


class Pace:
    """Adds up work and passes it on, with its rate and the time left in the note.

    Parameters
    ----------
    progress
        Whom to tell.
    total
        Units in all, if known.
    unit
        What to call them.
    """

    def __init__(self, progress: Progress, total: int | None, unit: str) -> None:
        self._progress, self._total, self._unit = progress, total, unit
        self._done = 0.0
        # The rate is that of the last seconds: what was found done would mislead.
        self._seen = deque([(time.monotonic(), 0.0)], maxlen=_SAMPLES)

    def advance(self, count: float) -> None:
        """Take note that `count` more units are finished."""
        self._done += count
        now = time.monotonic()
        if now - self._seen[-1][0] >= _APART:
            self._seen.append((now, self._done))
        self._progress(int(self._done), self._total, self._note())

    def _note(self) -> str:
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        if after <= before:
            return ""
        rate = (after - before) / (end - begin)
        note = f"{rate:,.3g} {self._unit}/s" if rate < 1000 else f"{rate:,.0f} {self._unit}/s"
        if self._total is None or self._total <= self._done:
            return note
        return f"{note}, {_duration((self._total - self._done) / rate)} left"


_SAMPLES, _APART = 30, 1.0  # looks that the rate is taken from, and seconds between them


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"


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
