"""dask-jobqueue without its handler of Ctrl-C, which it installs when it is imported.

Under that handler an interrupted run would end like a finished one, with exit code 0.
"""

from __future__ import annotations

import signal

_before = signal.getsignal(signal.SIGINT)

from dask_jobqueue.core import Job, JobQueueCluster  # noqa: E402
from dask_jobqueue.pbs import PBSCluster, PBSJob, pbs_format_bytes_ceil  # noqa: E402
from dask_jobqueue.slurm import SLURMCluster, SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _before)

__all__ = [
    "Job",
    "JobQueueCluster",
    "PBSCluster",
    "PBSJob",
    "SLURMCluster",
    "SLURMJob",
    "pbs_format_bytes_ceil",
]
