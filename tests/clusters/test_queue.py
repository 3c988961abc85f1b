from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from ampflow.clusters.queue import QueueError, cancel_jobs, has_queue, queued_jobs

USER = getpass.getuser()
# As OpenPBS 23 prints it: long values go on in the next line, after a tab.
OPENPBS = f"""\
Job Id: 12.head
    Job_Name = ampflow-1a2b3c
    Job_Owner = {USER}@head
    resources_used.walltime = 00:10:00
    job_state = R
    queue = workq
    exec_host = node7/0*4
    Resource_List.walltime = 02:00:00
    Variable_List = PBS_O_HOME=/home/me,PBS_O_LANG=C,
\tPBS_O_PATH=/usr/bin:/bin
    comment = Job run at Mon Nov 23 at 18:27

Job Id: 13.head
    Job_Name = ampflow-1a2b3c
    Job_Owner = {USER}@head
    job_state = Q
    Resource_List.walltime = 02:00:00

Job Id: 14.head
    Job_Name = ampflow-1a2b3c
    Job_Owner = {USER}@head
    job_state = F

Job Id: 15.head
    Job_Name = other
    Job_Owner = {USER}@head
    job_state = R

Job Id: 16.head
    Job_Name = ampflow-1a2b3c
    Job_Owner = somebody@head
    job_state = R
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but fakes of a scheduler's commands, made by the test."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def fake(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_the_listing_of_openpbs(commands: Path) -> None:
    # Own jobs with our names that have not ended; numbers without the server; the time left.
    (commands / "listing").write_text(OPENPBS)
    fake(
        commands, "qstat", f'while IFS= read -r l; do printf "%s\\n" "$l"; done <{commands}/listing'
    )
    jobs = queued_jobs()
    assert [(j.id, j.name, j.state, j.node, j.left) for j in jobs] == [
        ("12", "ampflow-1a2b3c", "running", "node7", "01:50:00"),
        ("13", "ampflow-1a2b3c", "queued", "", ""),
    ]


def test_slurm_is_asked_where_it_is(commands: Path) -> None:
    # Torque's commands may be Slurm's; its own say more.
    fake(commands, "qstat", "exit 1")
    fake(commands, "squeue", "echo '9|ampflow-x|PENDING||2:00'; echo '8|ampflow-x|RUNNING|n1|1:59'")
    assert [(j.id, j.state, j.left) for j in queued_jobs()] == [
        ("8", "running", "1:59"),
        ("9", "queued", ""),
    ]


def test_a_scheduler_that_fails_is_quoted(commands: Path) -> None:
    # What it says is what the user needs; no queue is not an empty queue.
    fake(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueError, match="Unable to contact slurm controller"):
        queued_jobs()


def test_no_scheduler(commands: Path) -> None:
    assert not has_queue()
    with pytest.raises(QueueError, match="no such command"):
        queued_jobs()


def test_cancelling_what_has_ended_is_no_error(commands: Path) -> None:
    # A job may end between the look and the cancel.
    fake(commands, "squeue", "true")
    fake(commands, "scancel", "echo 'Invalid job id' >&2; exit 1")
    cancel_jobs(["7"])


def test_a_job_that_cannot_be_cancelled_is_an_error(commands: Path) -> None:
    fake(commands, "squeue", "echo '7|ampflow-x|RUNNING|n1|1:59'")
    fake(commands, "scancel", "echo 'Access denied' >&2; exit 1")
    with pytest.raises(QueueError, match="Access denied"):
        cancel_jobs(["7"])
    assert os.environ["PATH"] == str(commands)
