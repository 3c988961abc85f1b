"""Work that threads ask for one by one, done for all who wait at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["Rounds"]

_Work = TypeVar("_Work")


class Rounds(Generic[_Work]):
    """Gathers requests into rounds, each run by one of the threads that wait for it.

    A round begins when all members wait, or as many as have room, or when those who wait have
    waited as long as the last round took: late ones cost the others half of their time at most.
    Who is in a round must make no difference to its results.

    Parameters
    ----------
    run
        Does some requests at once. What it raises is raised in each of their threads.
    slots
        Requests in a round, at most.
    """

    def __init__(self, run: Callable[[list[_Work]], None], slots: int) -> None:
        self._run, self._slots = run, slots
        self._changed = threading.Condition()
        self._members, self._is_running = 0, False
        self._waiting: list[_Work] = []
        self._ends: dict[int, BaseException | None] = {}  # by identity, of requests that are done
        self._ended, self._took = time.monotonic(), 0.0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of those whom a round waits for."""
        with self._changed:
            self._members += 1
        try:
            yield
        finally:
            with self._changed:
                self._members -= 1
                self._changed.notify_all()

    def ask(self, work: _Work) -> None:
        """Have `work` done, and return when it is."""
        with self._changed:
            self._waiting.append(work)
            self._changed.notify_all()
            while id(work) not in self._ends:
                late = self._ended + self._took - time.monotonic()
                if not self._is_running and (late <= 0 or self._all_wait()):
                    self._run_one()
                else:
                    self._changed.wait(None if self._is_running else max(late, 1e-4))
            error = self._ends.pop(id(work))
        if error is not None:
            raise error

    def _all_wait(self) -> bool:
        return len(self._waiting) >= min(self._members, self._slots)

    def _run_one(self) -> None:
        """Run a round, letting others ask meanwhile."""
        works, self._waiting = self._waiting[: self._slots], self._waiting[self._slots :]
        self._is_running, error, start = True, None, time.monotonic()
        self._changed.release()
        try:
            self._run(works)
        except BaseException as raised:
            error = raised
        finally:
            self._changed.acquire()
        self._is_running, self._ended = False, time.monotonic()
        self._took = self._ended - start
        self._ends |= {id(work): error for work in works}
        self._changed.notify_all()
