"""Time the way from files to a finished store, on one machine, and what it takes of memory.

    python benchmarks/stores.py FILE [--many 200000] [--repeats 5] [--folder FOLDER]

FILE is anything ASE reads, for instance 300 structures of OC20. Figures are medians over `repeats`,
in wall time: compare those of one run. --many makes a trajectory of so many structures by moving
the atoms of FILE at random, and puts it into a store in a process of its own, whose largest
resident memory is shown (files that are mapped count). It needs 10 kB of disk a structure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from ampflow.experiment import Data, Fingerprints
from ampflow.fingerprinting import (
    StoreJob,
    find_source,
    fingerprint,
    make_descriptor,
    store_path,
)
from ampflow.fingerprints.placing import join_atoms
from ampflow.reading import read_images

COLD = """
import time
start = time.perf_counter()
import sys
from pathlib import Path
from ampflow.experiment import Data, Fingerprints
from ampflow.fingerprinting import find_source, fingerprint, make_descriptor, store_path
data = Data(files=[sys.argv[1]])
for number in range(4):
    source, descriptor = find_source(data), make_descriptor(Fingerprints())
    path = store_path(Path(sys.argv[2], str(number)), source, data, descriptor)
    fingerprint(source, data, descriptor, path, threads=1)
    print(time.perf_counter() - start, time.process_time())
"""
MANY = """
import json, resource, sys, time
from pathlib import Path
from ampflow.experiment import Data, Fingerprints
from ampflow.fingerprinting import find_source, fingerprint, make_descriptor, store_path
def usage():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}
start = time.perf_counter()
data = Data(files=[sys.argv[1]])
source, descriptor = find_source(data), make_descriptor(Fingerprints())
path = store_path(Path(sys.argv[2]), source, data, descriptor)
seen = [0.0]
def show(done, total, note=""):
    if time.monotonic() - seen[0] > 10:
        seen[0] = time.monotonic()
        print(f"  {done:,}/{total:,} {note}", file=sys.stderr)
store = fingerprint(source, data, descriptor, path, show)
seconds = time.perf_counter() - start
made = {"structures": len(store), "shards": len(store.parts), "seconds": seconds}
print(json.dumps(made | usage()))
"""


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.repeats:
            show_small(arguments.file, Path(folder), arguments.repeats)
            show_cold(arguments.file, Path(folder) / "cold")
            show_processes(arguments.file, Path(folder))
        if arguments.many:
            show_many(arguments.file, Path(folder), arguments.many)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="structures, anything ASE reads")
    parser.add_argument("--many", type=int, default=0, help="structures of the large store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for temporary files")
    return parser.parse_args()


def show_small(file: Path, folder: Path, repeats: int) -> None:
    """Print how long each stretch of the way takes."""
    descriptor, data = make_descriptor(Fingerprints()), Data(files=[str(file)])
    structures = ase.io.read(file, ":")
    known = frozenset(descriptor.densities.elements)
    counter = iter(range(10**6))

    def to_store(threads: int) -> Callable[[], Any]:
        def run() -> None:
            source = find_source(data)
            path = store_path(folder / str(next(counter)), source, data, descriptor)
            fingerprint(source, data, descriptor, path, threads=threads)

        return run

    def compute(threads: int) -> Callable[[], Any]:
        chunks = [structures[start : start + 16] for start in range(0, len(structures), 16)]
        batches = [join_atoms(chunk) for chunk in chunks]

        def run() -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(descriptor.compute_batch, batches))

        return run

    stretches = {
        "ASE reads the file": lambda: ase.io.read(file, ":"),
        "reading and checking": lambda: list(read_images([file], (0.4, known))),
        "fingerprints, 1 thread": compute(1),
        "fingerprints, 2 threads": compute(2),
        "file to store, 1 thread": to_store(1),
        "file to store, 2 threads": to_store(2),
    }
    print(f"{len(structures)} structures; wall and CPU time in s")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in stretches}
    for turn in range(repeats + 1):  # taking turns, so that what else runs meets all alike
        for name, function in stretches.items():
            start, used = time.perf_counter(), time.process_time()
            function()
            if turn:
                times[name].append((time.perf_counter() - start, time.process_time() - used))
    for name, found in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        best = min(wall for wall, _ in found)
        print(f"{name:28}{wall:8.3f} {cpu:8.3f}   best {best:.3f}")
    ratios = [
        one / two
        for (one, _), (two, _) in zip(
            times["fingerprints, 1 thread"], times["fingerprints, 2 threads"], strict=True
        )
    ]
    print(f"2 threads: {statistics.median(ratios):.2f} times as fast, at best {max(ratios):.2f}")


def show_cold(file: Path, folder: Path) -> None:
    """Print how much longer the first store of a process takes than a later one."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "compiled")}
    for turn, name in enumerate(("first process ever", *["code on disk"] * 5)):
        command = [sys.executable, "-c", COLD, file, folder / str(turn)]
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        ends = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)
        wall, cpu = ends[0] - np.diff(ends, axis=0).min(axis=0)
        print(f"{name}: imports and first store {ends[0, 0]:.2f} s; "
              f"more than a later store: {wall:.2f} s, CPU {cpu:.2f}")  # fmt: skip


def show_processes(file: Path, folder: Path) -> None:
    """Print how fast one process, and two, make the two shards of a larger file."""
    large, small = folder / "shards.traj", folder / "small.traj"
    write_many(file, large, 6000)
    write_many(file, small, 10)
    taken: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(3):
        for count, walls in taken.items():
            warm, job = (store_job(f, folder / f"{turn}-{count}") for f in (small, large))
            shards = job.source.shards()
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(count, spawn, warm.make, warm.source.shards()) as pool:
                list(pool.map(time.sleep, [4.0] * count))  # until each has begun
                start = time.perf_counter()
                list(pool.map(job.make, shards))
                walls.append(time.perf_counter() - start)
    one, two = (statistics.median(walls) for walls in taken.values())
    best = min(taken[1]) / min(taken[2])
    print(f"{len(shards)} shards, 6,000 structures: 1 process {one:.2f} s, 2 {two:.2f} s; "
          f"{one / two:.2f} times as fast, at best {best:.2f}")  # fmt: skip


def store_job(file: Path, folder: Path) -> StoreJob:
    data, descriptor = Data(files=[str(file)]), make_descriptor(Fingerprints())
    source = find_source(data)
    return StoreJob(source, data, descriptor, store_path(folder, source, data, descriptor))


def show_many(file: Path, folder: Path, count: int) -> None:
    """Print time and memory of a large store, and of a run that finds all of it."""
    large = folder / "many.traj"
    start = time.perf_counter()
    write_many(file, large, count)
    print(f"{count:,} structures: {large.stat().st_size / 1e6:,.0f} MB of trajectory, written in "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip
    for name in ("made", "found"):
        done = subprocess.run(
            [sys.executable, "-c", MANY, large, folder / "stores"],
            check=True,
            stdout=subprocess.PIPE,
        )
        print(f"{name}: " + ", ".join(f"{k} {v:,.1f}" for k, v in json.loads(done.stdout).items()))


def write_many(file: Path, target: Path, count: int) -> None:
    """Write structures of `file` with atoms moved by 0.02 Å, one at a time."""
    random = np.random.default_rng(0)
    structures = ase.io.read(file, ":")
    with ase.io.Trajectory(target, "w") as trajectory:
        for number in range(count):
            atoms = structures[number % len(structures)].copy()
            atoms.set_constraint()
            atoms.info.clear()
            atoms.positions += 0.02 * random.normal(size=atoms.positions.shape)
            forces = random.normal(size=atoms.positions.shape)
            atoms.calc = SinglePointCalculator(atoms, energy=random.normal(), forces=forces)
            trajectory.write(atoms)


if __name__ == "__main__":
    main()
