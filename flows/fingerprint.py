"""Fingerprints alone."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ampflow.experiment import Experiment
from ampflow.fingerprinting import MadeShard
from ampflow.source import Shard
from flows.workers import current_pool, worker_pool
from tasks.fingerprints import (
    FingerprintPlan,
    make_shards,
    plan_fingerprints,
    store_fingerprints,
)

__all__ = ["fingerprint", "fingerprint_structures"]


@flow(name="Fingerprint")
def fingerprint(experiment: Experiment) -> Path:
    """Read and check the structures, and compute their fingerprints."""
    with worker_pool(experiment):
        return fingerprint_structures(experiment)


def fingerprint_structures(experiment: Experiment) -> Path:
    """Return the fingerprint store; workers make its shards if there are enough of them."""
    plan = plan_fingerprints(experiment)
    made: dict[Shard, MadeShard] = {}
    if plan.shards:
        made = _spread.with_options(task_runner=current_pool().runner())(plan)
    return store_fingerprints(plan, made)


@flow(name="Fingerprint shards")
def _spread(plan: FingerprintPlan) -> dict[Shard, MadeShard]:
    pool = current_pool()
    return make_shards(plan, pool.workers, pool.size)
