"""Waiting for a storage that fails for a while: a database that restarts, a lock that lasts."""

from __future__ import annotations

import logging
import random
import time

from ampflow.errors import StorageError

__all__ = ["Patience"]

_PATIENCE = 600.0  # seconds of failures without a success between after which there is no hope
_FIRST, _LONGEST = 0.2, 10.0  # seconds between two tries

_log = logging.getLogger(__name__)


class Patience:
    """How long one worker has waited."""

    def __init__(self) -> None:
        self._since, self._pause = 0.0, 0.0

    def wait(self, error: StorageError) -> None:
        """Wait before the next try, longer each time; raise `error` where that is no use."""
        now = time.monotonic()
        if not self._pause:
            self._since, self._pause = now, _FIRST
        if not error.fleeting or now - self._since > _PATIENCE:
            raise error
        _log.warning("%s; trying again", error.what)
        # At random, so that not all workers come at once to a server that has just started.
        time.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311
        self._pause = min(2 * self._pause, _LONGEST)

    def forget(self) -> None:
        """Take note that it works again."""
        self._pause = 0.0
