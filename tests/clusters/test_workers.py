from __future__ import annotations

import dask
import pytest
from private_slurm import wait_for

from ampflow.clusters.workers import Processes
from ampflow.errors import AmpflowError


def test_processes_that_end_at_their_start() -> None:
    # Nobody waits for workers that never come: the run is told.
    with dask.config.set({"distributed.worker.preload": ["import os; os._exit(3)"]}):
        processes = Processes()
        try:
            processes.check()
            processes.scale(1)
            wait_for("the end of a process", lambda: processes._cluster.workers, 60)
            with pytest.raises(AmpflowError, match="ended at its start"):
                processes.check()
        finally:
            processes.close()
