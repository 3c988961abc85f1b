"""Fingerprinting as tasks: what is missing shard by shard, and joined."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ampflow.clusters.workers import Workers
from ampflow.experiment import Experiment
from ampflow.fingerprinting import (
    MadeShard,
    Source,
    StoreJob,
    find_source,
    make_descriptor,
    make_store,
    store_path,
)
from ampflow.layout import Layout
from ampflow.progress import Pace
from ampflow.source import Shard, count_structures
from ampflow.store import FingerprintStore, is_whole
from tasks.caching import STEP, run_cached
from tasks.progress import step_progress

if TYPE_CHECKING:
    from prefect_dask.task_runners import PrefectDaskFuture

__all__ = ["FingerprintPlan", "make_shards", "plan_fingerprints", "store_fingerprints"]

_FEW = 2  # shards that are not worth starting workers for
_TRIES = 3  # of a shard whose workers are killed
_LOOK = 0.1  # seconds between two looks at the workers
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FingerprintPlan:
    """A store that is wanted.

    Parameters
    ----------
    experiment, source, path
        What it is of, and where it will be.
    shards
        Those that workers are worth starting for.
    """

    experiment: Experiment
    source: Source
    path: Path
    shards: list[Shard]

    @property
    def job(self) -> StoreJob:
        """What makes it."""
        descriptor = make_descriptor(self.experiment.fingerprints)
        return StoreJob(self.source, self.experiment.data, descriptor, self.path)


def plan_fingerprints(experiment: Experiment) -> FingerprintPlan:
    """Find out which store the experiment needs, and whether to start workers for it."""
    source = find_source(experiment.data)
    descriptor = make_descriptor(experiment.fingerprints)
    path = store_path(Layout.of(experiment).stores, source, experiment.data, descriptor)
    missing: list[Shard] = []
    if not is_whole(path):
        job = StoreJob(source, experiment.data, descriptor, path)
        missing = [shard for shard in source.shards() if not job.is_made(shard)]
    return FingerprintPlan(experiment, source, path, missing if len(missing) > _FEW else [])


def make_shards(plan: FingerprintPlan, workers: Workers, most: int) -> dict[Shard, MadeShard]:
    """Make shards on at most so many workers, each as a task of the flow that this is called in.

    A shard that fails, or whose worker is killed, is tried again by itself. One whose workers
    were killed again and again is not among those that are returned.
    """
    from distributed.scheduler import KilledWorker

    made: dict[Shard, MadeShard] = {}
    killed: Counter[Shard] = Counter()
    with step_progress("Fingerprints") as progress:
        pace = Pace(progress, count_structures(plan.shards), "structures")
        waiting = {shard: _submit(plan.job, shard) for shard in plan.shards}
        while waiting:
            workers.scale(min(most, len(waiting)))
            workers.check()
            for shard in [shard for shard in waiting if waiting[shard].wrapped_future.done()]:
                try:
                    made[shard] = waiting.pop(shard).result()
                    pace.advance(made[shard].structures + made[shard].rejected)
                except KilledWorker:
                    killed[shard] += 1
                    _log.warning("a worker was killed that made a shard")
                    if killed[shard] < _TRIES:
                        waiting[shard] = _submit(plan.job, shard)
            time.sleep(_LOOK)
    return made


def _submit(job: StoreJob, shard: Shard) -> PrefectDaskFuture[MadeShard]:
    return cast("PrefectDaskFuture[MadeShard]", _shard.submit(job, shard))


def store_fingerprints(plan: FingerprintPlan, made: dict[Shard, MadeShard]) -> Path:
    """Return the store, which is made of the shards unless it exists."""
    path, steps = plan.path, Layout.of(plan.experiment).steps
    return run_cached(_fingerprint, path.stem, path, steps, is_whole(path), plan, made)


@task(name="Fingerprint shard", cache_policy=NO_CACHE, **STEP)
def _shard(job: StoreJob, shard: Shard) -> MadeShard:
    return job.make(shard)


@task(name="Fingerprints", **STEP)
def _fingerprint(plan: FingerprintPlan, made: dict[Shard, MadeShard]) -> None:
    with step_progress("Fingerprints") as progress:
        store = make_store(plan.job, progress, made=made)
    create_markdown_artifact(_summary(store), key="fingerprints", description="Fingerprint store")


def _summary(store: FingerprintStore) -> str:
    header = store.header
    rows = {
        "structures": len(store),
        "atoms": int(store.index.atoms.sum()),
        "features": len(header["features"]),
        "left out": len(header["rejected"]),
        "copied from earlier stores": header["reused"],
        "file": store.path,
    }
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())
