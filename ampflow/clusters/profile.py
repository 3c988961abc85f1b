"""A cluster as a profile: what a job asks for, in the words of its scheduler."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Profile", "seconds_of"]

_WALLTIME = r"^\d{1,3}:[0-5]\d:[0-5]\d$"
_MEMORY = r"^\d+(\.\d+)? ?[kMGT]i?B$"

# What a directive must not say, and why: found out the hard way, as schedulers do not object.
_OWN = "it is an option of the profile itself"
_REFUSED: dict[str, list[tuple[str, str]]] = {
    "slurm": [
        (r"^(-t|--time)\b", f"{_OWN}: walltime"),
        (r"^(-p|--partition)\b", f"{_OWN}: queue"),
        (r"^(-A|--account)\b", f"{_OWN}: account"),
        (r"^(-c|--cpus-per-task|-n|--ntasks)\b", f"{_OWN}: cores"),
        (r"^--mem\b", f"{_OWN}: memory"),
        (r"^(--gres=gpu|-G|--gpus)\b", f"{_OWN}: gpus"),
        (r"^(-J|--job-name)\b", "jobs are found again by their name"),
        (r"^(-o|--output|-e|--error)\b", "logs are read when jobs fail, so they have their place"),
        (r"^(-N|--nodes|-a|--array)\b", "a job is one node; more come from maximum_jobs"),
    ],
    "pbs": [
        (r"^-l\s*walltime", f"{_OWN}: walltime"),
        (r"^-l\s*select", f"{_OWN}: cores, memory, gpus"),
        (r"^-l\s*nodes", "OpenPBS rejects it beside select, and gpus= in it always"),
        (r"^-l\s*(mem|ncpus|ngpus)\b", "OpenPBS rejects it beside select: cores, memory, gpus"),
    ],
    "torque": [
        (r"^-l\s*walltime", f"{_OWN}: walltime"),
        (r"^-l\s*nodes", f"{_OWN}: cores, gpus"),
        (r"^-l\s*mem\b", f"{_OWN}: memory"),
        (r"^-l\s*select", "Torque knows no select"),
        (r"^-l\s*(pmem|ngpus)\b", "silently ignored where Torque's commands are Slurm's: use mem"),
    ],
}
_REFUSED_BY_PBS = [
    (r"^-q\b", f"{_OWN}: queue"),
    (r"^-A\b", f"{_OWN}: account"),
    (r"^-N\b", "jobs are found again by their name"),
    (r"^-(o|e|j)\b", "some schedulers ignore it in a script; logs have their place"),
    (r"^-[Jt]\b", "a job is one job; more come from maximum_jobs"),
]
_SCHEDULED = ("queue", "account", "walltime", "gpus", "directives", "scratch", "login_nodes")


def _field(default: Any, description: str, **constraints: Any) -> Any:
    return Field(default, description=description, **constraints)


class Profile(BaseModel):
    """A cluster, and the job that a tuning worker runs in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = _field("", "One line for `ampflow clusters`.")
    scheduler: Literal["local", "pbs", "torque", "slurm"] = _field(
        "local",
        '"slurm"; "pbs" for PBS Pro and OpenPBS (select=...); "torque" for Torque, also as '
        'Slurm\'s wrappers of it (nodes=...:ppn=...); "local": processes on this machine.',
    )
    queue: str = _field("", "Queue or partition; empty: the scheduler's default.")
    account: str = _field("", "What the hours are charged to.")
    walltime: Annotated[str, Field(pattern=_WALLTIME)] | Literal[""] = _field(
        "", "Longest time of a job, HH:MM:SS. Work goes on in the next one."
    )
    cores: int = _field(1, "Cores of a job.", ge=1)
    memory: str = _field("4 GB", "Memory of a job, with its unit.", pattern=_MEMORY)
    gpus: int = _field(0, "GPUs of a job.", ge=0)
    processes: int = _field(
        0, "Workers in a job, each training one trial at a time; 0: one a core.", ge=0
    )
    interface: str = _field(
        "",
        "Network interface between nodes, as `ip addr` names it (ib0, eth0); empty: the one "
        "that leads out of the machine.",
    )
    scratch: str = _field(
        "", "Fast folder on each node, for temporary files; $TMPDIR and the like are replaced."
    )
    shared: str = _field(
        "", "Folder that all nodes see; results and cache have to be in it. Empty: not checked."
    )
    prologue: list[str] = _field([], "Shell lines before the work: modules, environments.")
    directives: list[str] = _field([], 'More directives, without the "#SBATCH" or "#PBS".')
    minimum_jobs: int = _field(1, "Jobs when a run names no number of workers.", ge=1)
    maximum_jobs: int = _field(10, "Never more jobs than this at a time.", ge=1)
    login_nodes: list[str] = _field(
        [], "Names of the machines where no heavy work is allowed, with * and ?."
    )

    @property
    def workers_per_job(self) -> int:
        """Tuning workers in one job."""
        return self.processes or self.cores

    def jobs_for(self, workers: int) -> int:
        """Return how many jobs `workers` workers need (0: as few as the profile allows)."""
        wanted = -(-workers // self.workers_per_job) if workers else self.minimum_jobs
        return max(1, min(wanted, self.maximum_jobs))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.minimum_jobs > self.maximum_jobs:
            raise ValueError(
                f"minimum_jobs ({self.minimum_jobs}) above maximum_jobs ({self.maximum_jobs})"
            )
        if self.processes > self.cores:
            raise ValueError(f"processes ({self.processes}) above cores ({self.cores})")
        if self.scheduler == "local":
            for name in _SCHEDULED:
                if getattr(self, name):
                    raise ValueError(f'{name}: means nothing where scheduler is "local"')
            return self
        if not self.walltime:
            raise ValueError("walltime: missing; without it jobs get the scheduler's default")
        self._check_directives()
        return self

    def _check_directives(self) -> None:
        refused = _REFUSED[self.scheduler]
        refused = refused if self.scheduler == "slurm" else refused + _REFUSED_BY_PBS
        for directive in self.directives:
            if directive.startswith("#"):
                raise ValueError(f"directives: {directive}: leave out the {directive.split()[0]}")
            for pattern, reason in refused:
                if re.search(pattern, directive.strip()):
                    raise ValueError(f"directives: {directive}: {reason}")


def seconds_of(walltime: str) -> int:
    """Return the seconds of HH:MM:SS."""
    hours, minutes, seconds = map(int, walltime.split(":"))
    return 3600 * hours + 60 * minutes + seconds
