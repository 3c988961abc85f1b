"""Accuracy, time and memory of ampflow's trainer and AMPTorch's, on the same data.

    python benchmarks/amptorch.py ../shared/data/oc20_300_test.traj ../shared/data/water_2d.traj

The same fingerprints, split (80 / 10 / 10 %), network and options for both; each training in a
process of its own, on one thread. Errors in eV per structure, of the best epoch on validation;
milliseconds an epoch are the median over epochs. Memory is the largest resident size of the
process that trains: for AMPTorch that is its own. Needs AMPTorch (docs/amptorch.md).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np

from ampflow.dataset import Dataset
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.training import train

SIGMAS = [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4]


def dataset(file: str) -> Dataset:
    images = ase.io.read(file, ":")
    descriptor = GMP(SIGMAS, [0, 1, 2, 3], 5.0)
    sizes = [len(atoms) for atoms in images]
    return Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in images]),
        np.concatenate([atoms.numbers for atoms in images]).astype(np.int64),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([atoms.get_potential_energy() for atoms in images]),
    )


def split(data: Dataset, seed: int) -> list[Dataset]:
    """Divide at random, with a structure of every element in the train part."""
    order = np.random.default_rng(seed).permutation(len(data))
    seen: set[int] = set()
    first = []
    for index in order:
        new = set(data.numbers[data.offsets[index] : data.offsets[index + 1]].tolist()) - seen
        seen |= new
        first += [index] if new else []
    order = np.array([*first, *(index for index in order if index not in set(first))])
    ends = [len(data) * 8 // 10, len(data) * 9 // 10]
    return [data.take(part) for part in np.split(order, ends)]


def one(file: str, seed: int, options: Training) -> dict[str, float]:
    """Train once, here, and return the figures."""
    fitted, scored, test = split(dataset(file), seed)
    if options.backend == "ampflow":  # compiled, or read from disk, before the clock runs
        train(fitted, scored, options.model_copy(update={"epochs": 1}), seed)
    start = time.perf_counter()
    trained = train(fitted, scored, options, seed)
    wall = time.perf_counter() - start
    who = resource.RUSAGE_CHILDREN if options.backend == "amptorch" else resource.RUSAGE_SELF
    return {
        "references": float(np.abs(trained.fit.references.of(test) - test.energies).mean()),
        "validation": trained.validation_mae,
        "test": float(np.abs(trained.fit.predict(test) - test.energies).mean()),
        "epoch": 1e3 * float(np.median([epoch.seconds for epoch in trained.history])),
        "seconds": wall,
        "memory": resource.getrusage(who).ru_maxrss / 1024,
    }


def elsewhere(file: str, seed: int, options: Training) -> dict[str, float]:
    job = json.dumps([file, seed, options.model_dump(mode="json")])
    command = [sys.executable, __file__, "--one", job]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        file, seed, options = json.loads(given.one)
        print(json.dumps(one(file, seed, Training.model_validate(options))))
        return
    print("| data, precision, trainer | references | validation | test | ms an epoch | s | MB |")
    print("|---|---|---|---|---|---|---|")
    for file in given.files:
        for precision in ("float64", "float32"):
            for backend in ("ampflow", "amptorch"):
                options = Training(
                    backend=backend, precision=precision, num_layers=5, num_nodes=20,
                    activation="tanh", batch_size=32, lr=0.01, epochs=given.epochs,
                )  # fmt: skip
                rows = [elsewhere(file, seed, options) for seed in range(given.seeds)]
                mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
                print(
                    f"| {Path(file).stem}, {precision}, {backend} | {mean['references']:.3g} | "
                    f"{mean['validation']:.3g} | {mean['test']:.3g} | {mean['epoch']:.1f} | "
                    f"{mean['seconds']:.1f} | {mean['memory']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
