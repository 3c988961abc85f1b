"""Accuracy, time and memory of ampflow's trainer and AMPTorch's, on the same data.

    python benchmarks/amptorch_training.py FILE [--seeds 5] [--epochs 60]

The same fingerprints, network and options for both, and for each seed the same split (80 / 10 /
10 %), which is checked. Errors in eV per structure, of the best epoch on validation, as means over
seeds with their standard errors; milliseconds an epoch are medians, seconds those of a training.
Each trainer and precision has a process of its own, on one thread. Memory is the largest resident
size of the process that trains: for AMPTorch that is its own. Needs AMPTorch (docs/amptorch.md).
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
from typing import Any

import numpy as np
from real_data import dataset, split

from ampflow.dataset import Dataset
from ampflow.digests import digest
from ampflow.experiment import Training
from ampflow.potential.fit import Fit
from ampflow.potential.training import train


def one(file: str, seeds: int, options: Training) -> dict[str, Any]:
    """Train with each seed, here, and return the figures."""
    data = dataset(file)
    if options.backend == "ampflow":  # compiled, or read from disk, before the clock runs
        train(*split(data, 0)[:2], options.model_copy(update={"epochs": 1}), 0)
    rows = [figures(data, seed, options) for seed in range(seeds)]
    who = resource.RUSAGE_CHILDREN if options.backend == "amptorch" else resource.RUSAGE_SELF
    return {key: [row[key] for row in rows] for key in rows[0]} | {
        "memory": resource.getrusage(who).ru_maxrss / 1024
    }


def figures(data: Dataset, seed: int, options: Training) -> dict[str, Any]:
    parts = split(data, seed)
    fitted, scored, test = parts
    start = time.perf_counter()
    trained = train(fitted, scored, options, seed)
    wall = time.perf_counter() - start
    again = mae(trained.fit, scored)
    if not np.isclose(again, trained.validation_mae, rtol=1e-3):
        raise SystemExit(f"validation: {trained.validation_mae} eV were told, {again} are found")
    return {
        "parts": [digest(part.energies, part.fingerprints) for part in parts],
        "references": float(np.abs(trained.fit.references.of(test) - test.energies).mean()),
        "validation": trained.validation_mae,
        "test": mae(trained.fit, test),
        "epoch": 1e3 * float(np.median([epoch.seconds for epoch in trained.history])),
        "seconds": wall,
    }


def mae(fit: Fit, part: Dataset) -> float:
    return float(np.abs(fit.predict(part) - part.energies).mean())


def elsewhere(file: str, seeds: int, options: Training) -> dict[str, Any]:
    job = json.dumps([file, seeds, options.model_dump(mode="json")])
    command = [sys.executable, __file__, "--one", job]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shown(values: Any) -> str:
    """Return the mean and its standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.3g} ± {error:.2g}"


def compare(file: str, seeds: int, epochs: int, precision: str) -> None:
    """Print a row for each trainer."""
    found: dict[str, dict[str, Any]] = {}
    for backend in ("ampflow", "amptorch"):
        options = Training(
            backend=backend, precision=precision, num_layers=5, num_nodes=20,
            activation="tanh", batch_size=32, lr=0.01, epochs=epochs,
        )  # fmt: skip
        row = found[backend] = elsewhere(file, seeds, options)
        if row["parts"] != found["ampflow"]["parts"]:
            raise SystemExit(f"{file}: the trainers were given different structures")
        less = np.subtract(row["test"], found["ampflow"]["test"])
        print(
            f"| {Path(file).stem}, {precision}, {backend} | {np.mean(row['references']):.3g} | "
            f"{shown(row['validation'])} | {shown(row['test'])} | "
            f"{shown(less) if less.any() else ''} | {np.median(row['epoch']):.1f} | "
            f"{np.median(row['seconds']):.1f} | {row['memory']:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="structures, anything ASE reads")
    parser.add_argument("--seeds", type=int, default=5, help="2 or more")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        file, seeds, options = json.loads(given.one)
        print(json.dumps(one(file, seeds, Training.model_validate(options))))
        return
    print("| data, precision, trainer | references | validation | test | test, less ampflow's | "
          "ms an epoch | s | MB |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for file in given.files:
        for precision in ("float64", "float32"):
            compare(file, given.seeds, given.epochs, precision)


if __name__ == "__main__":
    main()
