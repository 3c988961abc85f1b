"""An epoch from the store beside one from memory: time and memory, same structures, same results.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py oc20_300_test.traj --structures 6000

The file's structures, each many times with its atoms moved by 0.02 Å, are fingerprinted once. Then
processes by turns train on them in memory and streamed (`training.memory` of 100 MB); with
`--core` each on one core alone, so that reading and training share it. Printed: medians over turns
of ms an epoch, validation included, of the CPU time of an epoch, and of the largest resident
memory, and how much of it the interpreter had before there were structures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np

from ampflow.digests import digest
from ampflow.experiment import Data, Fingerprints, Training
from ampflow.fingerprinting import find_source, fingerprint, make_descriptor
from ampflow.potential.derivatives import load_parts
from ampflow.potential.training import train
from ampflow.store import FingerprintStore


def make_store(file: str, count: int, folder: Path) -> Path:
    images, trajectory = ase.io.read(file, ":"), folder / "many.traj"
    with ase.io.Trajectory(trajectory, "w") as out:
        for number in range(count):
            atoms = images[number % len(images)].copy()
            atoms.calc = images[number % len(images)].calc
            moved = np.random.default_rng(number).normal(0, 0.02, atoms.positions.shape)
            energy = atoms.calc.results["energy"] + float(moved.sum())
            atoms.positions += moved
            atoms.calc = ase.calculators.singlepoint.SinglePointCalculator(atoms, energy=energy)
            out.write(atoms)
    data = Data(files=[str(trajectory)])
    descriptor = make_descriptor(Fingerprints())
    return fingerprint(find_source(data), data, descriptor, folder / "store.lmdb", threads=1).path


def one(path: Path, options: Training) -> dict[str, object]:
    """Train here, and return the figures."""
    store = FingerprintStore(path)
    order = np.random.default_rng(0).permutation(len(store))
    warm = store.load(order[:32])
    train(warm, warm, options.model_copy(update={"epochs": 1}), 0)  # loads or compiles the kernels
    before = _peak()
    parts = [np.sort(part) for part in np.split(order, [len(store) * 9 // 10])]
    loaded = load_parts(store, parts, options)
    own: list[float] = []
    found = train(*loaded, options, 0, on_epoch=lambda _: own.append(time.process_time()))
    wall = [epoch.seconds for epoch in found.history]
    return {
        "ms": 1e3 * float(np.median(wall)),
        "own": 1e3 * float(np.median(np.diff(own))),
        "before": before,
        "peak": _peak(),
        "atoms": int(store.index.atoms.sum()),
        "kind": type(loaded[0]).__name__,
        "weights": digest(found.fit.weights),
    }


def _peak() -> float:
    # Not getrusage's, which begins with that of the process that started this one.
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s]
    return int(line.split()[1]) / 1024


def elsewhere(path: Path, options: Training, core: bool) -> dict[str, object]:
    job = json.dumps([str(path), options.model_dump(mode="json")])
    command = [sys.executable, __file__, "--one", job]
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if core else []
    done = subprocess.run([*pinned, *command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--structures", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--core", action="store_true", help="one core for all")
    parser.add_argument("--store", type=Path, help="folder to keep the store in")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        path, options = json.loads(given.one)
        print(json.dumps(one(Path(path), Training.model_validate(options))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.store or Path(scratch)
        path = folder / "store.lmdb"
        if not path.exists():
            make_store(given.file, given.structures, folder)
        print("| network, kept | ms an epoch | CPU, ms | MB, largest | before |")
        print("|---|---|---|---|---|")
        tanh = {"num_layers": 5, "num_nodes": 20, "activation": "tanh", "batch_size": 32}
        for name, network in {"5 x 20 tanh, batch 32": tanh, "defaults": {}}.items():
            rows: dict[float, list[dict[str, object]]] = {1e3: [], 0.1: []}
            for _ in range(given.turns):
                for memory, found in rows.items():
                    options = Training(epochs=given.epochs, memory=memory, **network)
                    found.append(elsewhere(path, options, given.core))
            for found in rows.values():
                keys = ("ms", "own", "peak", "before")
                medians = [float(np.median([row[key] for row in found])) for key in keys]
                cells = " | ".join(f"{value:.0f}" for value in medians)
                print(f"| {name}, {found[0]['kind']} | {cells} |", flush=True)
            assert len({row["weights"] for found in rows.values() for row in found}) == 1
        print(f"\n{rows[1e3][0]['atoms']} atoms, {len(FingerprintStore(path))} structures")


if __name__ == "__main__":
    main()
