from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

from ampflow.demo import make_demo_structures
from ampflow.experiment import Fingerprints
from ampflow.fingerprinting import make_descriptor
from ampflow.store import FingerprintStore

RUN = """
import json, sys
from ampflow import source
from ampflow.experiment_file import make_experiment
source._MOST = int(sys.argv[3])
if __name__ == "__main__":
    from flows.fingerprint import fingerprint
    from flows.workers import Pool
    runner, started = Pool.runner, []
    def counting(pool):
        started.append(pool.size)
        return runner(pool)
    Pool.runner = counting
    store = fingerprint(make_experiment({"data": {"files": [sys.argv[1]]}, "out": sys.argv[2]}))
    print(json.dumps([str(store), sum(started)]))
"""


@pytest.fixture
def run(tmp_path: Path, served: dict[str, str]):
    """Run the flow in a process, with shards of at most so many structures."""
    (tmp_path / "run.py").write_text(RUN)

    def run(data: Path, most: int) -> tuple[FingerprintStore, int]:
        command = [sys.executable, tmp_path / "run.py", data, tmp_path / "out", str(most)]
        done = subprocess.run(
            command, env=served, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        store, workers = json.loads(done.stdout.splitlines()[-1])
        return FingerprintStore(Path(store)), workers

    return run


@pytest.mark.slow
def test_workers_make_shards_where_that_is_worth_it(tmp_path: Path, run) -> None:
    # Many shards go to workers, each as a task; few do not start any. The store is the same.
    structures = make_demo_structures(12, seed=3)
    ase.io.write(tmp_path / "a.traj", structures)
    spread, workers = run(tmp_path / "a.traj", 3)
    assert workers > 0
    assert len(spread.parts) == 4
    descriptor = make_descriptor(Fingerprints())
    for index, atoms in enumerate(structures):
        np.testing.assert_array_equal(spread.fingerprints(index), descriptor.compute(atoms))
    # One shard that is missing is made here; the others are not touched.
    gone = spread.parts[2][1].path
    before = {path: path.stat().st_mtime_ns for path in gone.parent.iterdir() if path != gone}
    gone.unlink()
    again, workers = run(tmp_path / "a.traj", 3)
    assert workers == 0
    assert again.header["reused"] == 9
    assert {path: path.stat().st_mtime_ns for path in before} == before
