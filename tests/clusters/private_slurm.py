"""A private Slurm on this machine: its daemons on loopback, all its files in one folder.

It lives in a process of its own, `python tests/clusters/private_slurm.py`, as long as the standard
input of that: so nothing of it is left when a test's process is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["NotPossible", "Slurm", "private_slurm", "wait_for"]

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "qsub", "scancel")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PARTITIONS = ("pace-ice", "pace-ice-gpu")
_GPUS = 2

_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
OverTimeLimit=0
MinJobAge=36000
SlurmctldTimeout=300
SlurmdTimeout=300
MessageTimeout=60
InactiveLimit=0
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 \
ThreadsPerCore=1 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
"""


class NotPossible(Exception):  # noqa: N818 - nothing went wrong
    """Slurm is not installed, or this is not root."""


def wait_for(what: str, condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until `condition()` is true; fail after a time that only a hang would take."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.3)


class Slurm:
    """A Slurm that runs, with Torque's commands."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Return what one of Slurm's commands prints."""
        environment = os.environ | self.environment
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    def queue(self, state: str = "") -> list[str]:
        """Return the numbers of the jobs in the queue, of those in a state such as RUNNING."""
        states = [f"--states={state}"] if state else []
        return self.call("squeue", "--noheader", "--format=%i", *states).split()

    def jobs(self) -> list[dict[str, str]]:
        """Return all jobs there ever were, with Slurm's names of what it knows of them."""
        shown = self.call("scontrol", "--oneliner", "show", "jobs").splitlines()
        tables = [dict(word.partition("=")[::2] for word in line.split()) for line in shown]
        return sorted(
            (table for table in tables if "JobId" in table), key=lambda job: int(job["JobId"])
        )

    def cancel(self, job: str) -> None:
        """Cancel a job, as an administrator does."""
        self.call("scancel", job)

    def limit(self, job: str) -> None:
        """Shorten the time of a job to Slurm's shortest, a minute since its start."""
        self.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")

    def kill(self, job: str) -> None:
        """Kill the processes of a job, as a node that runs out of memory does."""
        _kill(_processes("SLURM_JOB_ID", job))

    def workers(self) -> list[psutil.Process]:
        """Return the processes that Dask started to work."""
        return _processes("SLURM_CONF", self.environment["SLURM_CONF"], "spawn_main")

    def processes(self) -> list[psutil.Process]:
        """Return all processes of jobs, and of those who submit them."""
        return _processes("SLURM_CONF", self.environment["SLURM_CONF"])


def _processes(variable: str, value: str, words: str = "") -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) != value or process.pid == os.getpid():
                continue
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def private_slurm() -> Iterator[Slurm]:
    """Run a Slurm with the partitions pace-ice and pace-ice-gpu; nothing of it is left."""
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]
    if missing:
        raise NotPossible(f"no {', '.join(missing)} (Debian: slurm-wlm-torque and others)")
    if os.geteuid():
        raise NotPossible("Slurm's daemons are to be started by root")
    keeper = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        folder = keeper.stdout.readline().strip()
        assert folder, "Slurm did not start"
        yield Slurm(Path(folder))
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def main() -> None:
    """Run it until the end of the standard input; print its folder when it is up."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: it will hold a socket
    folder.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    slurm = Slurm(folder)
    try:
        _configure(folder)
        _start(folder, daemons, slurm)
        sys.stdout.write(f"{folder}\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        _kill(slurm.processes())  # drivers first, which would submit jobs anew
        with suppress(subprocess.SubprocessError, AssertionError):
            for job in slurm.queue():
                slurm.cancel(job)
            wait_for("an empty queue", lambda: not slurm.queue(), 60)
        _kill(slurm.processes())
        for daemon in reversed(daemons):
            _stop(daemon)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    for name, mode in {"state": 0o755, "spool": 0o755, "munge": 0o711}.items():
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    host = socket.gethostname().partition(".")[0]
    conf = _CONF.format(host=host, folder=folder, ports=_free_ports(), gpus=_GPUS)
    for name in _PARTITIONS:
        conf += f"PartitionName={name} Nodes={host} MaxTime=08:00:00 DefMemPerCPU=500 State=UP"
        conf += " Default=YES\n" if name == _PARTITIONS[0] else "\n"
    (folder / "slurm.conf").write_text(conf)
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    # Only for character devices does Slurm tell jobs which GPU is theirs: these are /dev/null.
    for number in range(_GPUS):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    gres = f"AutoDetect=off\nName=gpu File={folder}/gpu[0-{_GPUS - 1}]\n"
    (folder / "gres.conf").write_text(gres)


def _start(folder: Path, daemons: list[subprocess.Popen[bytes]], slurm: Slurm) -> None:
    munge, conf = folder / "munge", folder / "slurm.conf"
    output = (folder / "output.log").open("ab")

    def start(*command: str) -> None:
        # Jobs are found by this variable in their environment: the daemons go without.
        environment = {k: v for k, v in os.environ.items() if k != "SLURM_CONF"}
        daemons.append(
            subprocess.Popen(
                command,
                env=environment | {"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        )

    start(
        "munged", "-F", "--force", f"--socket={munge}/sock", f"--key-file={munge}/key",
        f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
    )  # fmt: skip
    wait_for("munge", (munge / "sock").exists)
    start("slurmctld", "-D", "-c", "-f", str(conf))
    start("slurmd", "-D", "-f", str(conf))
    output.close()

    def is_up() -> bool:
        assert all(daemon.poll() is None for daemon in daemons), _log(folder)
        with suppress(subprocess.SubprocessError):
            return slurm.call("sinfo", "--noheader", "--format=%T").split()[:1] == ["idle"]
        return False

    wait_for("Slurm", is_up)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _free_ports() -> list[int]:
    probes = [socket.socket() for _ in range(2)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _log(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))


if __name__ == "__main__":
    main()
