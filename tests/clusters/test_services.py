"""The check of a cluster, and Prefect's server for it."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from private_slurm import wait_for
from site_user import SiteUser, hidden

pytestmark = pytest.mark.cluster


def test_checking_a_cluster(user: SiteUser) -> None:
    # All that a run needs is tried from within one job; what does not work is named.
    shared = user.cwd.parent / "shared"
    shared.mkdir()
    gpu = user.profile("gpu", "torque")
    said = user.ampflow("clusters", "check", gpu, "--folder", str(shared))
    assert "✗" not in said
    for what in ("submits", "worker connects back", "sees the shared folder", "storage", "Prefect"):
        assert re.search(rf"✓.*{what}", said), said
    assert re.search("✓ GPU: number [01]", said)

    none = user.profile("none", prologue=["unset CUDA_VISIBLE_DEVICES"], gpus=1)
    absent = "postgresql://me@127.0.0.1:9/studies"
    arguments = ("clusters", "check", none, "--folder", str(shared), "--storage", absent)
    said = user.ampflow(*arguments, code=1)
    assert "✗ GPU: none in the job" in said
    assert "✗ reaches the study's storage: " in said
    assert "✓ sees the shared folder" in said
    wrong = user.profile("wrong", interface="ib7")
    said = user.ampflow("clusters", "check", wrong, "--folder", str(shared), code=1)
    assert "✗ submits: interface ib7" in said
    assert list(shared.iterdir()) == []
    wait_for("an empty queue", lambda: not user.slurm.queue())


# The command, which gives up after the first job that died: ten seconds instead of thirty.
HASTY = (
    "from ampflow.clusters import fleet; fleet._ROUNDS = 1; "
    "from ampflow.cli.app import main; main()"
)


@pytest.mark.slow
def test_a_folder_that_jobs_do_not_see(user: SiteUser) -> None:
    # It is named, instead of what is missing in it: where jobs see another folder in its place,
    # and where it is one of the driver's machine alone.
    shared, local = (user.cwd.parent / name for name in ("shared", "local"))
    hidden_there = user.profile("mine", prologue=[hidden(shared)])
    plain = user.profile("plain")
    processes = []
    for name, folder, before in (
        (hidden_there, shared, ":"),
        (plain, local, f"mount -t tmpfs none {local}"),
    ):
        folder.mkdir()
        words = [sys.executable, "-c", HASTY, "clusters", "check", name, "--folder", str(folder)]
        processes.append(user.run(["unshare", "-m", "sh", "-c", f'{before} && "$@"', "sh", *words]))
    for process, said_of_it in zip(
        processes,
        (f"does not see {shared}", f"left no log: does its node see {local}?"),
        strict=True,
    ):
        code, said = user.end(process)
        assert code == 1, said
        assert f"✗ runs: jobs die at their start, 1 times in a row. The last one {said_of_it}" in (
            " ".join(said.split())
        )
        assert "Try: mend that in the profile, or --folder" in said
    assert len(user.submitted()) == 2
    wait_for("an empty queue", lambda: not user.slurm.queue())


def test_a_server_that_jobs_cannot_reach(user: SiteUser) -> None:
    # One on loopback is refused before anything is submitted, when jobs are on other machines.
    name = user.profile("mine", interface=_outer_interface())
    said = user.ampflow(*user.tuning(name), code=1)
    assert f"jobs of {name} cannot reach a server on loopback" in said
    assert "ampflow server start --cluster" in said
    assert user.submitted() == []


def _outer_interface() -> str:
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family.name == "AF_INET" and not address.address.startswith("127."):
                return name
    pytest.skip("this machine has only loopback")


def test_a_server_for_all_runs(serverless_user: SiteUser) -> None:
    # Listening where jobs reach it, it asks for a password, which commands and jobs know; the
    # runs of workers are recorded there.
    user = serverless_user
    name = user.profile("mine", interface=_outer_interface())
    said = user.ampflow("server", "start", "--cluster", name)
    url = re.search(r"http://\S+/api", said).group()  # type: ignore[union-attr]
    try:
        assert url.split("//")[1].partition(":")[0] != "127.0.0.1"
        request = urllib.request.Request(
            f"{url}/task_runs/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=60)
        assert url in user.ampflow("server", "status")
        user.ampflow(*user.tuning(name, trials=2))
        user.check_study(trials=2, epochs=5)
    finally:
        user.ampflow("server", "stop")
    user.ampflow("server", "status", code=1)
    user.check_nothing_left()
