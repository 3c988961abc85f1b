"""Clears the queue after a driver that was killed: `python -m ampflow.clusters.reaper NAME`.

A child of the driver, which knows by its standard input that the driver has ended. What is
still in the queue then under the fleet's name is cancelled. The end of a batch job is told to all
its processes at once by SIGTERM: the driver then ends in order, and this one after it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ampflow.clusters.queue import QueueError, cancel_jobs, queued_jobs
from ampflow.errors import StorageError
from ampflow.files import read_json, write_json
from ampflow.tuning.leases import Holder

__all__ = ["clear", "main", "sign", "sweep"]

_HOLDER = "driver.json"

_LOOKS = 3  # a submission may still be on its way
_SECONDS = 2.0  # between two looks


def clear(name: str) -> None:
    """Cancel all jobs of this name, also those that appear a moment later.

    Raises
    ------
    QueueError
        If the scheduler does not answer.
    """
    for look in range(_LOOKS):
        if look:
            time.sleep(_SECONDS)
        cancel_jobs(job.id for job in queued_jobs(name) if job.name == name)


def sweep(folder: Path) -> None:
    """Clear up after fleets of `folder` whose driver was killed with all beside it.

    Raises
    ------
    QueueError
        If the scheduler does not answer.
    """
    jobs = queued_jobs()
    for kept in folder.glob(f"*/{_HOLDER}"):
        try:
            holder = Holder(**read_json(kept))
        except (StorageError, TypeError):  # being written, or of another version
            continue
        if holder.is_here:
            gone = not holder.is_alive()
        else:
            gone = bool(holder.job) and all(job.id != _number(holder.job) for job in jobs)
        if gone:
            cancel_jobs(job.id for job in jobs if job.name == kept.parent.name)
            shutil.rmtree(kept.parent, ignore_errors=True)


def sign(folder: Path) -> None:
    """Say in a fleet's folder that this process is its driver."""
    write_json(folder / _HOLDER, asdict(Holder.here("driver")))


def _number(job: str) -> str:
    return job.partition(".")[0]


def main() -> None:
    """Wait for the driver's end; then see that nothing of the fleet is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    name, folder = sys.argv[1], Path(sys.argv[2])
    graceful = False
    while said := os.read(sys.stdin.fileno(), 1):
        graceful = said == b"\n"
    if not graceful:
        with suppress(QueueError):
            clear(name)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
