"""Jobs on a cluster, kept at strength while there is work, and gone when there is none."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.security import Security

from ampflow.children import release_child, start_child
from ampflow.clusters.jobs import open_cluster, read_log, stop_file
from ampflow.clusters.machine import address_for_jobs
from ampflow.clusters.profile import Profile
from ampflow.clusters.queue import PREFIX, QueuedJob, QueueError, cancel_jobs, queued_jobs
from ampflow.clusters.reaper import sign, sweep
from ampflow.errors import AmpflowError, OptionError
from ampflow.files import explain_os_error

__all__ = ["Fleet", "FleetError"]

_LOOK = 1.0  # seconds between two looks at the queue
_YOUNG = 5.0  # seconds in which a job just submitted may not be in the queue's listing yet
_BACK_OFF = 5.0  # seconds after jobs died at their start; twice as long each time
_ROUNDS = 3  # of jobs that died at their start, or of errors, in a row before giving up

_STOPPING = 15.0  # seconds for workers to write checkpoints
_ENDING = 60.0  # seconds for cancelled jobs to leave the queue

# Dask's words where the first file that it reads is not there.
_UNSEEN = re.compile(r"ca_file\.pem'\s+does\s+not\s+exist")

_log = logging.getLogger(__name__)


class FleetError(AmpflowError):
    """Jobs cannot be submitted or looked after, or die at their start."""


class Fleet:
    """Dask workers in jobs.

    dask-jobqueue submits jobs and forgets them; here those that ended by walltime, failure or
    kill are replaced, after a pause and one by one where they die at their start.

    Parameters
    ----------
    profile
        Of the cluster.
    folder
        For the fleet's own folder with logs and certificates; all nodes see it.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    OptionError
        If it is not in the folder that the profile says is shared, or this machine does not have
        the profile's interface.
    """

    def __init__(self, profile: Profile, folder: Path) -> None:
        _check_shared(profile, folder)
        if profile.interface:
            address_for_jobs(profile)  # says so here, if there is no such interface
        with suppress(QueueError):  # submission will say what is wrong
            sweep(folder)
        self.name = PREFIX + secrets.token_hex(3)
        self._profile = profile
        self._folder = folder / self.name
        try:
            self._folder.mkdir(parents=True, mode=0o700)  # it will hold a private key
            sign(self._folder)
        except OSError as error:
            raise explain_os_error(error, self._folder) from error
        self._reaper = start_child("ampflow.clusters.reaper", self.name, self._folder)
        self._cluster = open_cluster(profile, self.name, self._folder)
        self._target = 0
        self._submitted: dict[str, float] = {}  # when, by job name within Dask
        self._met: set[str] = set()  # jobs whose workers have been here
        self._rounds = 0  # of jobs that died at their start
        self._wait_until = 0.0
        self._queue: dict[str, QueuedJob] = {}
        self._problem: FleetError | None = None
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="ampflow fleet", daemon=True)
        self._keeper.start()

    @property
    def address(self) -> str:
        """Where the Dask scheduler listens."""
        return str(self._cluster.scheduler_address)

    @property
    def security(self) -> Security:
        """What a client needs to be let in."""
        return self._cluster.security

    def scale(self, workers: int) -> None:
        """Keep as many jobs as `workers` workers need, within the profile's limits.

        Fewer than before means that jobs which end are not replaced; none is cancelled.
        """
        self._target = self._profile.jobs_for(workers) if workers else 0

    def check(self) -> None:
        """See that jobs can work.

        Raises
        ------
        FleetError
            If they cannot be submitted or looked after, or all die at their start.
        """
        if self._problem is not None:
            raise self._problem

    def note(self) -> str:
        """Say how many jobs there are, in a few words."""
        states = [job.state for job in self._queue.values()]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return ", ".join(f"{n} job{'s' * (n > 1)} {state}" for state, n in counts.items())

    def retire(self, worker: str) -> None:
        """Let the worker at this address end: its job is about to."""
        with self.client() as client:
            client.retire_workers([worker], close_workers=True)

    def close(self) -> None:
        """End all jobs, and see them gone from the queue."""
        self._over.set()
        self._keeper.join()
        self._stop_workers()
        self._cluster.close()
        try:
            self._clear()
        finally:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()  # cancels what could not be cancelled here
            self._reaper.wait()

    def _stop_workers(self) -> None:
        """Have workers that still train write their checkpoints."""
        stop_file(self._folder).touch()
        until = time.monotonic() + _STOPPING
        with self.client() as client:
            while any(client.processing().values()) and time.monotonic() < until:
                time.sleep(_LOOK / 4)

    def client(self) -> Client:
        """Connect to the workers; to be closed by whoever asks."""
        return Client(self.address, security=self.security, set_as_default=False)

    def _clear(self) -> None:
        until = time.monotonic() + _ENDING
        while (left := queued_jobs(self.name)) and time.monotonic() < until:
            cancel_jobs(job.id for job in left if job.state != "ending")
            time.sleep(_LOOK / 4)
        with suppress(BrokenPipeError):  # it was killed
            release_child(self._reaper)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self) -> None:
        troubles = 0  # one after the other
        while not self._over.wait(_LOOK) and self._problem is None:
            try:
                self._queue = {job.id: job for job in queued_jobs(self.name)}
            except QueueError as error:  # a scheduler that is restarted: jobs go on meanwhile
                _log.warning("%s", error)
                continue
            try:
                self._cluster.sync(self._mend)
                troubles = 0
            except Exception as error:
                _log.exception("the jobs of %s could not be looked after", self.name)
                troubles += 1
                if troubles >= _ROUNDS:
                    self._problem = FleetError(
                        f"the jobs of {self.name} could not be looked after: "
                        f"{type(error).__name__}: {error}",
                        "run it again to go on; with --debug it says where that happened",
                    )

    async def _mend(self) -> None:
        """Forget the jobs that ended, and submit what is missing."""
        cluster, now = self._cluster, time.monotonic()
        here = {_job_of(item["name"]) for item in cluster.scheduler_info["workers"].values()}
        self._met |= here
        if here & cluster.worker_spec.keys():
            self._rounds = 0
        lost = [name for name in cluster.worker_spec if self._is_lost(name, here, now)]
        ends = [self._end_of(name) for name in lost if name not in self._met]
        for name in lost:
            cluster.worker_spec.pop(name, None)
            cluster.workers.pop(name, None)
        if ends:
            self._failed(ends[-1])
        await self._submit(now)

    def _is_lost(self, name: str, here: set[str], now: float) -> bool:
        if name in here or now - self._submitted.get(name, now) < _YOUNG:
            job = self._cluster.workers.get(name)
            return job is not None and job.job_id is None
        job = self._cluster.workers.get(name)
        return job is None or job.job_id not in self._queue

    def _end_of(self, name: str) -> str:
        """Say how a job ended that died at its start, in words that follow it."""
        job = self._cluster.workers.get(name)
        number = getattr(job, "job_id", None)
        log = read_log(self._folder, number) if number else None
        if log is None:
            return f"left no log: does its node see {self._folder.parent}?"
        if not log:
            return "wrote nothing: does the profile's prologue end it?"
        if _UNSEEN.search(log):
            return f"does not see {self._folder.parent}: another folder is there, or none"
        return f"wrote at its end:\n{log}"

    def _failed(self, said: str) -> None:
        self._rounds += 1
        self._wait_until = time.monotonic() + _BACK_OFF * 2 ** (self._rounds - 1)
        _log.warning("jobs of %s died at their start: the last one %s", self.name, said)
        if self._rounds >= _ROUNDS:
            self._problem = FleetError(
                f"jobs die at their start, {_ROUNDS} times in a row. The last one {said}",
                "mend that; `ampflow clusters check` tries it with one job",
            )

    async def _submit(self, now: float) -> None:
        cluster = self._cluster
        # After a failure one job goes ahead, to see whether it fares better.
        wanted = min(self._target, 1) if self._rounds else self._target
        missing = wanted - len(cluster.worker_spec)
        if missing <= 0 or now < self._wait_until:
            return
        # Dask would take a free name. Under one that was used the new job is taken for a job that
        # was here, and is cancelled when Dask's time for the return of the earlier one is up.
        cluster._i += 1
        cluster.scale(jobs=wanted)
        new = [name for name in cluster.worker_spec if name not in self._submitted]
        try:
            await cluster
        except RuntimeError as error:
            for name, job in list(cluster.workers.items()):
                if job.job_id is None:
                    cluster.worker_spec.pop(name, None)
                    cluster.workers.pop(name, None)
            self._failed(f"was refused: {_said(error)}")
        finally:
            self._submitted |= dict.fromkeys(new, time.monotonic())


def _check_shared(profile: Profile, folder: Path) -> None:
    shared = profile.shared and Path(os.path.expandvars(profile.shared)).expanduser().resolve()
    if shared and not folder.resolve().is_relative_to(shared):
        raise OptionError(
            f"{folder} is not in {shared}, the folder that all nodes of the cluster see",
            "--out with a folder inside",
        )


def _job_of(worker: Any) -> str:
    """Return the job of a Dask worker: `NAME-3`, also where it is `NAME-3-0` of several."""
    return "-".join(str(worker).split("-")[:3])


def _said(error: RuntimeError) -> str:
    """Return what the scheduler said of a submission, from dask-jobqueue's message."""
    text = str(error).partition("stderr:")[2].strip()
    return text or str(error)
