"""The workers of a run: started when first needed, shared by its steps, ended with it.

Dask is imported when there is work: a run that finds everything done needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.task_runners import TaskRunner

from ampflow.clusters.shelf import find_profile
from ampflow.clusters.workers import Processes, Workers, default_workers
from ampflow.experiment import Experiment
from ampflow.layout import Layout

__all__ = ["Pool", "current_pool", "worker_pool"]

# Not a parameter of flows: those travel to the workers with each task.
_current: ContextVar[Pool] = ContextVar("pool")


class Pool:
    """The workers that an experiment asks for: processes here, or jobs of its cluster."""

    def __init__(self, experiment: Experiment) -> None:
        self._profile = find_profile(experiment.cluster or "laptop")
        self._folder = Layout.of(experiment).jobs
        self._workers: Workers | None = None
        self.size = experiment.tuning.workers or default_workers(self._profile)

    @property
    def workers(self) -> Workers:
        """The workers; none of them before `scale`."""
        if self._workers is None:
            from ampflow.clusters.fleet import Fleet

            local = self._profile.scheduler == "local"
            self._workers = Processes() if local else Fleet(self._profile, self._folder)
        return self._workers

    def runner(self) -> TaskRunner[Any]:
        """Return what runs a flow's tasks on the workers."""
        from prefect_dask.task_runners import DaskTaskRunner

        security = self.workers.security
        return DaskTaskRunner(
            address=self.workers.address,
            client_kwargs={"security": security} if security else {},
        )

    def close(self) -> None:
        """End the workers, if there are any."""
        if self._workers is not None:
            self._workers.close()


@contextmanager
def worker_pool(experiment: Experiment) -> Iterator[Pool]:
    """Yield the workers of a run, which end with it."""
    pool = Pool(experiment)
    token = _current.set(pool)
    try:
        yield pool
    finally:
        _current.reset(token)
        pool.close()


def current_pool() -> Pool:
    """Return the pool of the `worker_pool` that this runs in."""
    return _current.get()
