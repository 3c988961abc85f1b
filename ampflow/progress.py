"""How long work tells whoever watches how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called by long work: `done` of `total` (None: unknown) units, with a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Take note that `done` of `total` units are finished."""


def silent(done: int, total: int | None, note: str = "") -> None:
    """Watch nothing."""
