# ruff: noqa: E501 - scripts have long lines
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ampflow.clusters.jobs import driver_script, job_script, read_log
from ampflow.clusters.profile import Profile

PYTHON = sys.executable
FOLDER = Path("/shared/jobs/ampflow-1a2b3c")

PROFILES = {
    "slurm": Profile(
        **{
            "scheduler": "slurm",
            "queue": "gpu",
            "account": "gts-x",
            "walltime": "02:00:00",
            "cores": 4,
            "memory": "8 GB",
            "gpus": 1,
            "interface": "ib0",
            "scratch": "$TMPDIR",
            "prologue": ["module load anaconda3"],
            "directives": ["-q inferno"],
        }
    ),
    "torque": Profile(
        **{
            "scheduler": "torque",
            "queue": "pace-ice-gpu",
            "walltime": "00:30:00",
            "cores": 1,
            "memory": "4 GB",
            "gpus": 1,
        }
    ),
    "pbs": Profile(
        **{
            "scheduler": "pbs",
            "queue": "workq",
            "walltime": "04:00:00",
            "cores": 8,
            "processes": 2,
            "memory": "16 GB",
            "gpus": 2,
        }
    ),
}
SCRIPTS = {
    "slurm": """\
#!/usr/bin/env bash

#SBATCH -J ampflow-1a2b3c
#SBATCH -e /shared/jobs/ampflow-1a2b3c/ampflow-1a2b3c-%J.err
#SBATCH -o /shared/jobs/ampflow-1a2b3c/ampflow-1a2b3c-%J.out
#SBATCH -p gpu
#SBATCH -A gts-x
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH -t 02:00:00
#SBATCH --gres=gpu:1
#SBATCH -q inferno
export AMPFLOW_JOB_END=$(($(date +%s) + 7200))
export AMPFLOW_JOB_MARGIN=60
export AMPFLOW_STOP=/shared/jobs/ampflow-1a2b3c/stop
export OMP_NUM_THREADS=1
module load anaconda3
PYTHON -m distributed.cli.dask_worker tls://DRIVER:PORT --name ampflow-1a2b3c-0 --nthreads 1 --memory-limit 0 --nworkers 4 --nanny --death-timeout 120 --local-directory "${TMPDIR:-/tmp}" --no-dashboard --interface ib0 --protocol tls:// --tls-ca-file /shared/jobs/ampflow-1a2b3c/ca_file.pem --tls-cert /shared/jobs/ampflow-1a2b3c/worker_cert.pem --tls-key /shared/jobs/ampflow-1a2b3c/worker_key.pem
""",
    "torque": """\
#!/usr/bin/env bash

#PBS -N ampflow-1a2b3c
#PBS -q pace-ice-gpu
#PBS -l nodes=1:ppn=1:gpus=1
#PBS -l walltime=00:30:00
#PBS -l mem=4096MB
exec >/shared/jobs/ampflow-1a2b3c/${PBS_JOBID:-$SLURM_JOB_ID}.log 2>&1
export AMPFLOW_JOB_END=$(($(date +%s) + 1800))
export AMPFLOW_JOB_MARGIN=60
export AMPFLOW_STOP=/shared/jobs/ampflow-1a2b3c/stop
export OMP_NUM_THREADS=1
PYTHON -m distributed.cli.dask_worker tls://DRIVER:PORT --name ampflow-1a2b3c-0 --nthreads 1 --memory-limit 0 --nanny --death-timeout 120 --no-dashboard --protocol tls:// --tls-ca-file /shared/jobs/ampflow-1a2b3c/ca_file.pem --tls-cert /shared/jobs/ampflow-1a2b3c/worker_cert.pem --tls-key /shared/jobs/ampflow-1a2b3c/worker_key.pem
""",
    "pbs": """\
#!/usr/bin/env bash

#PBS -N ampflow-1a2b3c
#PBS -q workq
#PBS -l select=1:ncpus=8:mem=16GB:ngpus=2
#PBS -l walltime=04:00:00
#PBS -e /shared/jobs/ampflow-1a2b3c/
#PBS -o /shared/jobs/ampflow-1a2b3c/
export AMPFLOW_JOB_END=$(($(date +%s) + 14400))
export AMPFLOW_JOB_MARGIN=60
export AMPFLOW_STOP=/shared/jobs/ampflow-1a2b3c/stop
export OMP_NUM_THREADS=4
PYTHON -m distributed.cli.dask_worker tls://DRIVER:PORT --name ampflow-1a2b3c-0 --nthreads 1 --memory-limit 0 --nworkers 2 --nanny --death-timeout 120 --no-dashboard --protocol tls:// --tls-ca-file /shared/jobs/ampflow-1a2b3c/ca_file.pem --tls-cert /shared/jobs/ampflow-1a2b3c/worker_cert.pem --tls-key /shared/jobs/ampflow-1a2b3c/worker_key.pem
""",
}
DRIVER = """\
#!/usr/bin/env bash

#SBATCH -J ampflow-run
#SBATCH -p gpu
#SBATCH -A gts-x
#SBATCH -n 1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH -t 02:00:00
#SBATCH -q inferno
exec >>/state/runs/r.log 2>&1
export AMPFLOW_JOB_END=$(($(date +%s) + 7200))
export AMPFLOW_JOB_MARGIN=60
export OMP_NUM_THREADS=1
module load anaconda3
ampflow run 'a b.toml'
"""
DRIVER_TORQUE = """\
#!/usr/bin/env bash

#PBS -N ampflow-run
#PBS -q pace-ice-gpu
#PBS -l nodes=1:ppn=1
#PBS -l walltime=00:30:00
#PBS -l mem=4096MB
exec >>/state/runs/r.log 2>&1
export AMPFLOW_JOB_END=$(($(date +%s) + 1800))
export AMPFLOW_JOB_MARGIN=60
export OMP_NUM_THREADS=1
ampflow run 'a b.toml'
"""


@pytest.mark.parametrize("scheduler", PROFILES)
def test_the_script_of_a_worker(scheduler: str) -> None:
    # To the letter: what a dialect makes of it was tried on real schedulers.
    script = job_script(PROFILES[scheduler], "ampflow-1a2b3c", FOLDER)
    assert script.replace(PYTHON, "PYTHON") == SCRIPTS[scheduler]


def test_the_script_of_a_detached_run() -> None:
    # One core, no GPU, its output in the run's log, and no worker of Dask.
    command = ["ampflow", "run", "a b.toml"]
    log = Path("/state/runs/r.log")
    assert driver_script(PROFILES["slurm"], log, command) == DRIVER
    assert driver_script(PROFILES["torque"], log, command) == DRIVER_TORQUE


@pytest.mark.parametrize(
    ("scratch", "folder"),
    [("$FAST/me", "/fast disk/me"), ("${SLOW}", "/tmp"), ("/a b", "/a b")],
)
def test_scratch_on_a_node(scratch: str, folder: str) -> None:
    # A variable that a node lacks must not make the next option its value.
    profile = Profile(scheduler="slurm", walltime="01:00:00", scratch=scratch)
    command = job_script(profile, "ampflow-x", FOLDER).splitlines()[-1]
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"],
        env={"FAST": "/fast disk"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = said.stdout.splitlines()
    assert words[words.index("--local-directory") + 1] == folder


def test_settings_of_dask_jobqueue_do_not_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    # A forgotten jobqueue.yaml in somebody's home must not change what the profile says.
    import dask

    with dask.config.set({"jobqueue.slurm.account": "somebody-else"}):
        script = job_script(Profile(scheduler="slurm", walltime="01:00:00"), "ampflow-x", FOLDER)
    assert "somebody-else" not in script


def test_no_secret_is_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    # Scripts are kept by schedulers, and shown to anybody by some.
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ampflow:hunter2")
    for profile in PROFILES.values():
        assert "hunter2" not in job_script(profile, "ampflow-1a2b3c", FOLDER)


def test_a_job_that_wrote_nothing_left_a_log(tmp_path: Path) -> None:
    # One whose node sees another folder left none.
    folder = tmp_path / "ampflow-0a1b2c"
    folder.mkdir()
    (folder / "ampflow-0a1b2c-17.err").touch()
    assert read_log(folder, "17") == ""
    assert read_log(folder, "1") is None
