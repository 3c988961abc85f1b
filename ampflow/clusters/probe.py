"""Trying a cluster with one tiny job: what works from there, and what does not."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from distributed import Client

from ampflow.clusters.fleet import Fleet, FleetError
from ampflow.clusters.profile import Profile
from ampflow.errors import AmpflowError
from ampflow.files import explain_os_error
from ampflow.tuning.storage import open_storage, shown

__all__ = ["Finding", "check_cluster"]

_PACKAGES = ("ampflow", "dask", "distributed", "numba", "numpy", "optuna", "prefect", "torch")
_SECONDS = 60.0  # for an answer from a worker


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Parameters
    ----------
    what
        That was tried.
    works
        Whether it does; None: it was not asked for, or the profile does not need it.
    said
        What was found, or why it does not work.
    hint
        What to try then.
    """

    what: str
    works: bool | None
    said: str
    hint: str = ""


def check_cluster(
    profile: Profile,
    folder: Path,
    storage: str,
    prefect: str,
    wait: float,
    progress: Callable[[str], None],
) -> Iterator[Finding]:
    """Submit one tiny job and report what works from there.

    Parameters
    ----------
    folder
        That is to be shared with the jobs: the cache of a run would be there.
    storage
        URL of the study's database; empty: a journal in `folder`.
    prefect
        URL of Prefect's API, that jobs are to reach; empty: not tried.
    wait
        Seconds to wait for the job to start.
    progress
        Told what is being waited for.
    """
    try:
        fleet = Fleet(profile, folder)
    except (OSError, AmpflowError) as error:
        yield Finding("submits", False, str(error), "see --folder, and the profile")
        return
    try:
        yield from _submit(fleet, profile, wait, progress)
        yield from _ask(fleet, profile, folder, storage, prefect)
    except FleetError as error:
        hint = "mend that in the profile, or --folder with one that all nodes see"
        yield Finding("runs", False, error.what, hint)
    except AmpflowError as error:
        yield Finding("runs", False, error.what, error.hint)
    except TimeoutError as error:
        yield Finding("worker connects back", False, str(error), "is `interface` right?")
    finally:
        fleet.close()


def _submit(
    fleet: Fleet, profile: Profile, wait: float, progress: Callable[[str], None]
) -> Iterator[Finding]:
    fleet.scale(1)
    until, submitted = time.monotonic() + wait, False
    with fleet.client() as client:
        while not client.scheduler_info(n_workers=-1)["workers"]:
            fleet.check()
            if fleet.note() and not submitted:
                submitted = True
                yield Finding("submits", True, f"{profile.scheduler}, {fleet.name}")
            if time.monotonic() > until:
                queued = f" ({fleet.note()})" if fleet.note() else ""
                raise TimeoutError(f"no worker after {wait:.0f} s{queued}")
            progress(fleet.note())
            time.sleep(0.5)
    if not submitted:
        yield Finding("submits", True, f"{profile.scheduler}, {fleet.name}")


def _ask(
    fleet: Fleet, profile: Profile, folder: Path, storage: str, prefect: str
) -> Iterator[Finding]:
    token = secrets.token_hex(8)
    seen = folder / f".ampflow-check-{token}"
    try:
        seen.write_text(token, encoding="ascii")
    except OSError as error:
        raise explain_os_error(error, folder) from error
    try:
        with fleet.client() as client:

            def ask(function: Callable[..., Finding], *arguments: object) -> Finding:
                return _result(client, function, *arguments)

            yield ask(_connects)
            yield ask(_sees, seen, token)
            yield ask(_stores, storage, folder / f".ampflow-check-{token}.log")
            yield ask(_reaches, prefect)
            yield ask(_has_gpus, profile.gpus)
            yield ask(_agrees, _versions())
    finally:
        for left in folder.glob(f".ampflow-check-{token}*"):
            left.unlink(missing_ok=True)


def _result(client: Client, function: Callable[..., Finding], *arguments: object) -> Finding:
    finding: Finding = client.submit(function, *arguments, pure=False).result(timeout=_SECONDS)
    return finding


def _connects() -> Finding:
    return Finding("worker connects back", True, f"from {socket.gethostname()}")


def _sees(file: Path, token: str) -> Finding:
    for _ in range(20):  # network file systems show new files late
        with suppress(OSError):
            if file.read_text(encoding="ascii") == token:
                return Finding("sees the shared folder", True, str(file.parent))
        time.sleep(0.5)
    return Finding(
        "sees the shared folder", False, f"{file.parent} is another folder there, or absent",
        "--folder with one that all nodes see",
    )  # fmt: skip


def _stores(storage: str, journal: Path) -> Finding:
    where = shown(storage) if storage else "a journal in the shared folder"
    try:
        open_storage(storage, journal).get_all_studies()
    except AmpflowError as error:
        return Finding("reaches the study's storage", False, error.what, error.hint)
    return Finding("reaches the study's storage", True, where)


def _reaches(prefect: str) -> Finding:
    what = "reaches Prefect"
    if not prefect:
        return Finding(what, None, "no server is running; a run starts its own")
    try:
        with urllib.request.urlopen(f"{prefect}/health", timeout=10):  # noqa: S310
            return Finding(what, True, prefect)
    except (urllib.error.URLError, OSError) as error:
        return Finding(what, False, f"{prefect}: {error}", "ampflow server start --cluster NAME")


def _has_gpus(wanted: int) -> Finding:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible and f"number {visible}"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        names = ", ".join(done.stdout.split("\n")).strip(", ") if not done.returncode else names
    if not wanted:
        return Finding("GPU", None, names or "none, and none was asked for")
    return Finding("GPU", bool(names), names or "none in the job", "is the queue one with GPUs?")


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in _PACKAGES}


def _agrees(ours: dict[str, str]) -> Finding:
    what, theirs = "versions as here", _versions()
    other = [
        f"{name} {theirs[name]} (here {ours[name]})" for name in ours if theirs[name] != ours[name]
    ]
    said = ", ".join(other) or f"python {ours['python']}, ampflow {ours['ampflow']}, ..."
    return Finding(what, not other, said, "one environment for all nodes, in a shared folder")
