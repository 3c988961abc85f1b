"""The scheduler's queue, as its commands show it: this user's jobs of ampflow."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from ampflow.clusters.profile import seconds_of
from ampflow.errors import AmpflowError

__all__ = ["PREFIX", "QueueError", "QueuedJob", "call", "cancel_jobs", "has_queue", "queued_jobs"]

PREFIX = "ampflow-"
"""With which the names of all our jobs begin."""

_SECONDS = 60  # for a command of a busy scheduler
_SQUEUE = ["squeue", "--noheader", "--format=%i|%j|%T|%N|%L"]
_WORDS = {"Q": "queued", "R": "running", "E": "ending", "H": "held", "C": "ended", "F": "ended"}
_SLURM_WORDS = {"PENDING": "queued", "COMPLETING": "ending"}


class QueueError(AmpflowError):
    """A command of the scheduler failed."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue.

    Parameters
    ----------
    id, name
        As the scheduler knows it; the number alone.
    state
        "queued", "running", "ending", or the scheduler's own word.
    node
        Where it runs; empty before.
    left
        Time left, as HH:MM:SS or in Slurm's form; empty where not known.
    """

    id: str
    name: str
    state: str
    node: str
    left: str


def has_queue() -> bool:
    """Tell whether this machine has the commands of a scheduler."""
    return any(shutil.which(command) for command in ("squeue", "qstat"))


def queued_jobs(prefix: str = PREFIX) -> list[QueuedJob]:
    """Return this user's jobs whose names begin with `prefix`, by number.

    Raises
    ------
    QueueError
        If the scheduler does not answer.
    """
    # Where Torque's commands are Slurm's, Slurm's own say more.
    jobs = _slurm_jobs() if shutil.which("squeue") else _pbs_jobs()
    chosen = [job for job in jobs if job.name.startswith(prefix)]
    return sorted(chosen, key=lambda job: (len(job.id), job.id))


def cancel_jobs(ids: Iterable[str]) -> None:
    """Cancel jobs; one that ended meanwhile does not matter.

    Raises
    ------
    QueueError
        If the scheduler does not answer, or says no.
    """
    command = "scancel" if shutil.which("scancel") else "qdel"
    for job in ids:
        try:
            call([command, job])
        except QueueError:
            if any(found.id == job and found.state != "ending" for found in queued_jobs()):
                raise


def _slurm_jobs() -> list[QueuedJob]:
    jobs = []
    for line in call([*_SQUEUE, f"--user={getpass.getuser()}"]).splitlines():
        number, name, state, node, left = line.split("|")
        left = "" if state == "PENDING" else left
        jobs.append(QueuedJob(number, name, _SLURM_WORDS.get(state, state.lower()), node, left))
    return jobs


def _pbs_jobs() -> list[QueuedJob]:
    if shutil.which("qselect"):  # all users' jobs can be tens of thousands
        own = call(["qselect", "-u", getpass.getuser()]).split()
        listing = call(["qstat", "-f", *own]) if own else ""
    else:
        listing = call(["qstat", "-f"])
    return list(_parse(listing))


def _parse(listing: str) -> Iterable[QueuedJob]:
    """Read the output of `qstat -f`: a paragraph a job, long values go on in the next line."""
    joined = re.sub(r"\n[ \t]++(?!\S+ = )", "", listing)
    for paragraph in re.split(r"(?m)^Job Id:\s*", joined)[1:]:
        number, _, rest = paragraph.partition("\n")
        field: dict[str, str] = dict(re.findall(r"(?m)^\s*(\S+) = (.*)$", rest))
        if field.get("Job_Owner", "").partition("@")[0] != getpass.getuser():
            continue
        state = str(field.get("job_state", ""))
        if state in ("C", "F"):
            continue
        yield QueuedJob(
            number.strip().partition(".")[0],
            field.get("Job_Name", ""),
            _WORDS.get(state, state),
            field.get("exec_host", "").partition("/")[0],
            _left(field) if state == "R" else "",
        )


def _left(field: dict[str, str]) -> str:
    try:
        whole = seconds_of(field["Resource_List.walltime"])
        left = max(0, whole - seconds_of(field["resources_used.walltime"]))
    except (KeyError, ValueError):
        return ""
    return f"{left // 3600:02}:{left // 60 % 60:02}:{left % 60:02}"


def call(command: list[str]) -> str:
    """Run a command of the scheduler and return what it prints.

    Raises
    ------
    QueueError
        If it fails.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise QueueError(
            f"{command[0]}: no such command", "is this a machine that may submit jobs?"
        ) from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{command[0]} did not answer in {_SECONDS} s", "try later") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise QueueError(f"{command[0]}: {said[-1] if said else 'failed'}", "see the scheduler")
    return done.stdout
