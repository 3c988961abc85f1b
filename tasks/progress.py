"""Progress of a step: on the terminal that watches, and as an artifact in Prefect's UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from ampflow.progress import Progress, watch

__all__ = ["step_progress"]

_SECONDS = 2.0  # between two updates of the artifact


class _Published:
    """Passes progress on at once to the terminal, and now and then to Prefect."""

    def __init__(self, step: str) -> None:
        self._terminal = watch(step)
        key = f"{step.lower().replace(' ', '-')}-progress"
        self._artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=step))
        self._published = time.monotonic()

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        self._terminal(done, total, note)
        if total and time.monotonic() - self._published > _SECONDS:
            self._publish(100.0 * done / total)

    def finish(self) -> None:
        self._publish(100.0)

    def _publish(self, percent: float) -> None:
        update_progress_artifact(self._artifact, percent)
        self._published = time.monotonic()


@contextmanager
def step_progress(step: str) -> Iterator[Progress]:
    """Publish the progress of a step of the running task; complete if nothing was raised."""
    published = _Published(step)
    yield published
    published.finish()
