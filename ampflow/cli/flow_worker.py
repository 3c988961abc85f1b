"""Prefect's process worker as a process of our own: `python -m ampflow.cli.flow_worker`.

It ends with the process that started it, even if that is killed, and its flow runs end with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress

import psutil

from ampflow.children import end_with_parent

__all__ = ["POOL", "main"]

POOL = "ampflow"
"""The work pool."""

_LOOK_SECONDS = "2"  # for new runs; Prefect's own 10 would be a long wait after a click
_END_SECONDS = 20.0  # for a run to report its end


def main() -> None:
    """Run what is scheduled in the work pool, once the parent has made it, until terminated."""
    released = end_with_parent()
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", _LOOK_SECONDS)
    asyncio.run(_work(released))


async def _work(released: threading.Event) -> None:
    from prefect.workers.process import ProcessWorker

    released.wait()
    worker = ProcessWorker(work_pool_name=POOL, create_pool_if_not_found=False)
    working = asyncio.create_task(worker.start())

    async def end() -> None:
        await _end_runs()
        working.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: ending.append(loop.create_task(end())))
    ending: list[asyncio.Task[None]] = []
    with suppress(asyncio.CancelledError):
        await working


async def _end_runs() -> None:
    """Terminate the flow runs and wait for their end: a killed one would be Running for ever."""
    deadline = time.monotonic() + _END_SECONDS
    told: set[int] = set()
    while (runs := psutil.Process().children()) and time.monotonic() < deadline:
        for run in runs:
            if run.pid not in told:
                run.terminate()
                told.add(run.pid)
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
