"""Profiles in the words of dask-jobqueue: job scripts, and the Dask cluster that submits them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
import yaml  # type: ignore[import-untyped]
from dask.utils import parse_bytes
from distributed.security import Security

from ampflow.clusters.jobqueue import (
    Job,
    JobQueueCluster,
    PBSCluster,
    PBSJob,
    SLURMCluster,
    SLURMJob,
    pbs_format_bytes_ceil,
)
from ampflow.clusters.profile import Profile, seconds_of
from ampflow.clusters.queue import PREFIX, QueueError, call

__all__ = ["driver_script", "job_script", "open_cluster", "read_log", "stop_file", "submit_script"]

_DEATH_SECONDS = 120  # for a worker whose driver is gone; Python starts slowly on a busy disk
_PLACEHOLDER = "tls://DRIVER:PORT"
_ROLES = (
    *("ca_file", "scheduler_cert", "scheduler_key", "worker_cert", "worker_key"),
    *("client_cert", "client_key"),
)


class _NoLimit(Job):
    """A job whose workers Dask leaves alone, however much memory they take.

    One that it restarts loses its trial's time; the job's own limit holds anyway.
    """

    @property
    def worker_process_memory(self) -> str:
        return "0"


class _SlurmJob(_NoLimit, SLURMJob):
    pass


class _PbsJob(_NoLimit, PBSJob):
    pass


class _TorqueJob(_NoLimit, PBSJob):
    """A Torque job, also where Torque's commands are Slurm's, which ignore -o in a script."""

    submit_command = "qsub -j oe -o /dev/null"


_CLUSTERS: dict[str, tuple[type[JobQueueCluster], type[Job]]] = {
    "slurm": (SLURMCluster, _SlurmJob),
    "pbs": (PBSCluster, _PbsJob),
    "torque": (PBSCluster, _TorqueJob),
}


def open_cluster(profile: Profile, name: str, folder: Path) -> JobQueueCluster:
    """Start a Dask scheduler in this process whose workers will be jobs; submits none yet.

    Connections are encrypted and need a certificate: who can reach the scheduler of an open one
    can run code as its owner.

    Parameters
    ----------
    name
        Of the jobs; begins with `ampflow.clusters.queue.PREFIX`.
    folder
        For logs and certificates; all nodes see it, and nobody else may.
    """
    # A job that is lost is told at once: the trial's lease decides who goes on, not Dask.
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    # Dask cancels the job of a worker that went and was not started again in this time.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "60 s"})
    _forget_settings()
    _make_certificate(folder)
    cluster_class, job_class = _CLUSTERS[profile.scheduler]
    return cluster_class(
        job_cls=job_class,  # type: ignore[arg-type]  # annotated wrongly there
        name=name,
        protocol="tls://",
        security=_security(folder),
        # The pages would be open to all, and Prefect has its own.
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        **_options(profile, name, folder),
    )


def _security(folder: Path) -> Security:
    """Name the files of this cluster's own certificate."""
    kept = {f"tls_{role}": str(folder / f"{role}.pem") for role in _ROLES}
    return Security(require_encryption=True, **kept)


def _make_certificate(folder: Path) -> None:
    made = Security.temporary()
    for role in _ROLES:
        path = folder / f"{role}.pem"
        path.touch(mode=0o600)
        path.write_text(getattr(made, f"tls_{role}"), encoding="ascii")


def job_script(profile: Profile, name: str, folder: Path) -> str:
    """Return the script of a worker's job, as `ampflow clusters show` prints it."""
    _forget_settings()
    job = _CLUSTERS[profile.scheduler][1](
        scheduler=_PLACEHOLDER,
        name=f"{name}-0",
        protocol="tls://",
        security=_security(folder),
        **_options(profile, name, folder),
    )
    return str(job.job_script())


def driver_script(profile: Profile, log: Path, command: Sequence[str]) -> str:
    """Return the script of a job of one core that runs `command`: a detached run."""
    small = {"cores": 1, "processes": 1, "gpus": 0, "memory": "4 GB"}
    one = profile.model_copy(update=small)
    script = job_script(one, f"{PREFIX}run", log.parent)
    lines = script[: script.index(shlex.quote(sys.executable))].splitlines()
    kept = [
        line
        for line in lines
        if not re.match(r"#(SBATCH|PBS) -[eo] |exec |export AMPFLOW_STOP", line)
    ]
    header = max(number for number, line in enumerate(kept) if line.startswith("#"))
    redirect = f"exec >>{shlex.quote(str(log))} 2>&1"
    return "\n".join([*kept[: header + 1], redirect, *kept[header + 1 :], shlex.join(command), ""])


def submit_script(profile: Profile, script: str) -> str:
    """Submit a job and return its number.

    Raises
    ------
    QueueError
        If the scheduler refuses it.
    """
    command = {"slurm": "sbatch -o /dev/null", "pbs": "qsub -j oe -o /dev/null"}
    words = command.get(profile.scheduler, _TorqueJob.submit_command).split()
    with TemporaryDirectory(prefix="ampflow-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(script, encoding="utf-8")
        said = call([*words, str(file)])
    found = re.search(r"\d+", said)
    if found is None:
        raise QueueError(f"{words[0]} said {said.strip()!r}, and no number of a job")
    return found.group()


def _options(profile: Profile, name: str, folder: Path) -> dict[str, Any]:
    options: dict[str, Any] = {
        "job_name": name,
        "queue": profile.queue or None,
        "account": profile.account or None,
        "walltime": profile.walltime,
        # One thread a worker: a training uses one, and a second would be another worker's lease.
        "cores": profile.workers_per_job,
        "processes": profile.workers_per_job,
        "memory": _binary(profile.memory),
        "interface": profile.interface or None,
        "local_directory": _scratch(profile.scratch) or None,
        "death_timeout": _DEATH_SECONDS,
        "worker_extra_args": ["--no-dashboard"],
        "job_script_prologue": _prologue(profile, folder),
        "log_directory": None if profile.scheduler == "torque" else str(folder),
        "job_extra_directives": list(profile.directives),
        "python": shlex.quote(sys.executable),
    }
    return options | _resources(profile)


def _forget_settings() -> None:
    """Take dask-jobqueue as it comes: what its own files of settings say is in no profile."""
    text = (files("dask_jobqueue") / "jobqueue.yaml").read_text(encoding="utf-8")
    dask.config.set(yaml.safe_load(text))


def _resources(profile: Profile) -> dict[str, Any]:
    memory = parse_bytes(_binary(profile.memory))
    cores, gpus = profile.cores, profile.gpus
    extra = list(profile.directives)
    match profile.scheduler:
        case "slurm":
            wanted = [f"--gres=gpu:{gpus}"] if gpus else []
            return {"job_cpu": cores, "job_extra_directives": wanted + extra}
        case "torque":
            spec = f"nodes=1:ppn={cores}" + (f":gpus={gpus}" if gpus else "")
            limit = f"-l mem={pbs_format_bytes_ceil(memory)}"
            return {"resource_spec": spec, "job_extra_directives": [limit, *extra]}
        case _:
            spec = f"select=1:ncpus={cores}:mem={pbs_format_bytes_ceil(memory)}"
            return {"resource_spec": spec + (f":ngpus={gpus}" if gpus else "")}


def _scratch(folder: str) -> str:
    """Return a folder as a word of the shell; /tmp for variables that a node does not have."""
    return folder and '"' + re.sub(r"\$(\w+)|\$\{(\w+)\}", r"${\1\2:-/tmp}", folder) + '"'


def _binary(memory: str) -> str:
    """Return a size in the units that schedulers mean: their GB is 1024 MB."""
    return re.sub(r"([kMGT])B", r"\1iB", memory)


def _prologue(profile: Profile, folder: Path) -> list[str]:
    lines = []
    if profile.scheduler == "torque":
        log = f"{shlex.quote(str(folder))}/${{PBS_JOBID:-$SLURM_JOB_ID}}.log"
        lines.append(f"exec >{log} 2>&1")
    threads = max(1, profile.cores // profile.workers_per_job)
    seconds = seconds_of(profile.walltime)
    return [
        *lines,
        f"export AMPFLOW_JOB_END=$(($(date +%s) + {seconds}))",
        f"export AMPFLOW_JOB_MARGIN={min(60, seconds // 10)}",
        f"export AMPFLOW_STOP={shlex.quote(str(stop_file(folder)))}",
        f"export OMP_NUM_THREADS={threads}",
        *profile.prologue,
    ]


def stop_file(folder: Path) -> Path:
    """Return the file that tells the workers of a fleet to stop, once it is there."""
    return folder / "stop"


def read_log(folder: Path, job: str, lines: int = 15) -> str | None:
    """Return the end of a job's log; None where it left none."""
    fleet = folder.name  # which has digits as well, and files begin with it
    found = [path for path in folder.glob("*") if job in _numbers(path.name.removeprefix(fleet))]
    if not found:
        return None
    text = ""
    for path in sorted(found):
        with suppress(OSError):
            text += path.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.strip().splitlines()[-lines:])


def _numbers(name: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in name).split()
