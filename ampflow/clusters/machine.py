"""The machine's place in a cluster: its address for jobs, and whether it is a login node."""

from __future__ import annotations

import fnmatch
import os
import socket

import psutil

from ampflow.clusters.profile import Profile
from ampflow.clusters.shelf import find_profile, list_profiles
from ampflow.errors import OptionError

__all__ = ["address_for_jobs", "refuse_heavy_work"]


def address_for_jobs(profile: Profile) -> str:
    """Return the address by which jobs reach this machine; without an interface, Dask's choice.

    Raises
    ------
    OptionError
        If the machine does not have the profile's interface.
    """
    if not profile.interface:
        from distributed.utils import get_ip  # slow, and only runs on clusters come here

        # Not what the host name stands for: on many machines that is loopback.
        return str(get_ip())
    found = psutil.net_if_addrs()
    for address in found.get(profile.interface, []):
        if address.family == socket.AF_INET:
            return str(address.address)
    raise OptionError(
        f"interface {profile.interface}: this machine has none of that name",
        f"it has {', '.join(found)}; mend the profile",
    )


def refuse_heavy_work(cluster: str, command: str) -> None:
    """Refuse to compute on a login node; a driver that only submits jobs may run there.

    Parameters
    ----------
    cluster
        The profile that does the work; empty or one without jobs: this machine.
    command
        What the user called, for the hint.

    Raises
    ------
    OptionError
        Saying what to use instead.
    """
    if cluster and find_profile(cluster).scheduler != "local":
        return
    if os.environ.get("AMPFLOW_JOB_END"):  # within a job, whatever the machine is called
        return
    names = {socket.gethostname(), socket.getfqdn()}
    for shelved in list_profiles():
        try:
            patterns = shelved.read().login_nodes
        except OptionError:  # somebody's unfinished profile is no reason to refuse anything
            continue
        if any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns):
            raise OptionError(
                f"{socket.gethostname()} is a login node of {shelved.name}: "
                "heavy work is not allowed here",
                _instead(command, shelved.name),
            )


def _instead(command: str, cluster: str) -> str:
    in_jobs = f"{command} --cluster {cluster}"
    match command.split()[-1]:
        case "run":
            return (
                f"{in_jobs}, which does the work in jobs; or {in_jobs} --detach, "
                "which goes on when you log out"
            )
        case "tune" | "fingerprint":
            return f"{in_jobs}, which does the work in jobs"
        case _:
            return f"{command} within a job: srun --pty bash, or qsub -I"
