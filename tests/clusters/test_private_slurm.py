"""The Slurm of these tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from private_slurm import Slurm, wait_for

pytestmark = pytest.mark.cluster

SESSION = """
import sys
from private_slurm import private_slurm

with private_slurm() as slurm:
    slurm.call("sbatch", "-o", "/dev/null", "--wrap", "sleep 1000")
    print(slurm.environment["SLURM_CONF"], flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("slurm")  # skips where there cannot be one
def test_nothing_is_left_after_a_killed_session() -> None:
    # Tests may be killed in any way: daemons, jobs and files of their Slurm end with them.
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION], cwd=Path(__file__).parent, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with session:
        assert session.stdout is not None
        folder = Path(session.stdout.readline().strip()).parent
        slurm = Slurm(folder)
        wait_for("a job", lambda: slurm.queue("RUNNING"), 60)
        session.send_signal(signal.SIGKILL)
    wait_for("no files", lambda: not folder.exists(), 60)
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [words for words in commands if str(folder) in " ".join(words or [])]
