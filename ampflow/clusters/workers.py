"""Where work is done: in processes of this machine, or in jobs of a cluster.

Dask takes long to import, so it is imported where there is work.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ampflow.clusters.profile import Profile
from ampflow.errors import AmpflowError

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = ["Processes", "Workers", "default_workers", "here", "told_to_stop"]

_LOOK = 2.0  # seconds between two looks at the file that tells to stop


class Workers(Protocol):
    """Dask workers, each of which does one thing at a time."""

    @property
    def address(self) -> str:
        """Where their Dask scheduler listens."""

    @property
    def security(self) -> Security | None:
        """What a client needs to be let in."""

    def scale(self, workers: int) -> None:
        """Have as many of them as there is work for."""

    def check(self) -> None:
        """Raise what keeps them from working."""

    def note(self) -> str:
        """Say how many there are, in a few words."""

    def retire(self, worker: str) -> None:
        """Let the worker at this address end, for another to come."""

    def close(self) -> None:
        """End all."""


class Processes:
    """Worker processes on this machine; one that is killed is started again by Dask, or by us."""

    def __init__(self) -> None:
        import dask
        from distributed import LocalCluster

        # A worker that is lost is told at once: the trial's lease decides who goes on, not Dask.
        dask.config.set({"distributed.scheduler.allowed-failures": 0})
        self._cluster = LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            memory_limit=0,  # a worker that Dask restarts for its memory loses its trial's time
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )

    @property
    def address(self) -> str:
        """Where their Dask scheduler listens: on this machine alone."""
        return str(self._cluster.scheduler_address)

    @property
    def security(self) -> None:
        """Nothing."""

    def scale(self, workers: int) -> None:
        """Have at least so many, and others for those that ended while they were started again."""
        from distributed import Status

        for name, process in list(self._cluster.workers.items()):
            if process.status == Status.closed:  # Dask does not try twice, nor tell
                self._cluster.workers.pop(name, None)
        wanted = max(workers, len(self._cluster.worker_spec))
        if wanted > len(self._cluster.workers):
            self._cluster.scale(wanted)

    def check(self) -> None:
        """See that processes start.

        Raises
        ------
        AmpflowError
            If one ended at its start: Dask would wait for it for ever.
        """
        from distributed import Status

        if any(worker.status == Status.failed for worker in self._cluster.workers.values()):
            raise AmpflowError(
                "a worker process of this machine ended at its start",
                "its own message is above; is there enough memory? --set tuning.workers=1",
            )

    def note(self) -> str:
        """Nothing that a user would not know."""
        return ""

    def retire(self, worker: str) -> None:
        """Restart the process at this address."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.restart_workers([worker], raise_for_error=False)

    def close(self) -> None:
        """End all."""
        self._cluster.close()


def default_workers(profile: Profile) -> int:
    """Return how many workers there are where nobody says."""
    if profile.scheduler == "local":
        return len(os.sched_getaffinity(0))
    return profile.minimum_jobs * profile.workers_per_job


def here() -> str:
    """Return the address of the Dask worker that runs this; empty outside one."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""


def told_to_stop() -> Callable[[], bool]:
    """Return what tells a worker whether its job is being ended, or its driver says stop."""
    from distributed import Status, get_worker

    stop = Path(os.environ["AMPFLOW_STOP"]) if "AMPFLOW_STOP" in os.environ else None
    try:
        worker = get_worker()
    except ValueError:
        worker = None
    looked, stopped = 0.0, False

    def asked() -> bool:
        nonlocal looked, stopped
        if worker is not None and worker.status != Status.running:
            return True
        if stop is not None and time.monotonic() - looked > _LOOK:
            looked, stopped = time.monotonic(), stop.exists()
        return stopped

    return asked
