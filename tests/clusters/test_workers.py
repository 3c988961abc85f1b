from __future__ import annotations

import os
import signal
from pathlib import Path

import dask
import pytest
from distributed import Client, Status
from private_slurm import wait_for

from ampflow.clusters.workers import Processes
from ampflow.errors import AmpflowError


def test_processes_that_end_at_their_start(tmp_path: Path) -> None:
    # Nobody waits for workers that never come: the run is told.
    preload = tmp_path / "preload.py"
    preload.write_text("import os; os._exit(3)")
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        processes = Processes()
        try:
            processes.check()
            processes.scale(1)
            wait_for("the end of a process", lambda: processes._cluster.workers)
            with pytest.raises(AmpflowError, match="ended at its start"):
                processes.check()
        finally:
            processes.close()


def test_process_that_ends_while_it_is_started_again(tmp_path: Path) -> None:
    # Dask gives such a one up and says nothing: another takes its place, as long as others start.
    flag, preload = tmp_path / "ends", tmp_path / "preload.py"
    preload.write_text(f"import os; os.path.exists({str(flag)!r}) and os._exit(3)")
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        processes = Processes()
        try:
            processes.scale(1)
            with Client(processes.address, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=300)
                (first,) = client.run(os.getpid).values()
                # The worker may be known to the scheduler before the cluster has noted it.
                wait_for("the process", lambda: processes._cluster.workers)
                given_up = processes._cluster.workers[0]
                flag.touch()
                os.kill(first, signal.SIGKILL)
                wait_for("the end", lambda: given_up.status == Status.closed)
                flag.unlink()
                processes.scale(1)
                processes.check()
                client.wait_for_workers(1, timeout=300)
                (second,) = client.run(os.getpid).values()
                assert second != first
        finally:
            processes.close()
