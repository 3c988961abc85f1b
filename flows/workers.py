"""Where the tuning workers run, and how they end."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from distributed.scheduler import KilledWorker
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from ampflow.errors import AmpflowError

__all__ = ["local_workers", "wait_for_workers"]

_log = logging.getLogger(__name__)


def local_workers(count: int) -> TaskRunner[Any]:
    """Return `count` worker processes on this machine."""
    return DaskTaskRunner(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={
            "n_workers": count,
            "threads_per_worker": 1,
            "memory_limit": 0,  # a worker that Dask restarts for its memory loses its trial's time
            "dashboard_address": "127.0.0.1:0",
        },
    )


def wait_for_workers(workers: Iterable[PrefectFuture[Any]]) -> None:
    """Wait for all workers. One that was killed does not matter while another goes on.

    Raises
    ------
    AmpflowError
        If a worker said that the study cannot go on, or none of them survived.
    """
    errors: list[Exception] = []
    survivors = 0
    for worker in workers:
        try:
            worker.result()
            survivors += 1
        except KilledWorker as error:
            _log.warning("a tuning worker was killed: %s", error)
            errors.append(error)
        except Exception as error:
            errors.append(error)
    stops = [error for error in errors if not isinstance(error, KilledWorker)]
    if stops:
        raise stops[0]
    if errors and not survivors:
        raise AmpflowError(
            "every tuning worker was killed, again and again",
            "is there enough memory? Fewer workers need less: --set tuning.workers=1",
        )
