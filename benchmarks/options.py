"""Errors on validation and test with the default options beside others, over splits and seeds.

    OMP_NUM_THREADS=1 python benchmarks/options.py precision network FILES --seeds 10

Each seed is a random split (80 / 10 / 10 %) and a first network, the same for all options. Printed:
mean and standard deviation over seeds of the validation and test MAE (eV per structure), the mean
difference from the first row with its standard error, seed by seed, and ms an epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_data import dataset, split

from ampflow.experiment import Fingerprints, Training
from ampflow.potential import shuffling
from ampflow.potential.training import train

WIDE = {"num_layers": 5, "num_nodes": 20, "activation": "tanh"}
GROUPS: dict[str, list[dict[str, Any]]] = {
    "precision": [{}, {"precision": "float64"}, WIDE, WIDE | {"precision": "float64"}],
    "network": [
        {},
        {"network": "per-element"},
        {"network": "per-element", "num_nodes": 16},
        {"network": "per-element", "num_layers": 2, "num_nodes": 8},
    ],
    "learning": [
        {},
        *({"lr": lr} for lr in (0.003, 0.02)),
        *({"batch_size": size} for size in (8, 32)),
        *({"schedule": kind} for kind in ("cosine", "one-cycle")),
        {"loss": "huber"},
        {"ema_decay": 0.99},
        {"clip": 1.0},
        {"epochs": 200, "step_size": 30},
        {"num_nodes": 64},
    ],
    "windows": [{}, {"windows": 4}, {"windows": 16}],  # that the train part is shuffled in
    "fingerprints": [
        {},
        *({"switch_width": width} for width in (0.5, 1.0, 2.0)),
        {"square": True},
        {"square": True, "switch_width": 1.0},
        {"cutoff": 6.0},
        {"cutoff": 6.0, "switch_width": 1.0},
    ],
}


def errors(file: str, changes: dict[str, Any], seeds: int) -> NDArray[np.float64]:
    """Return (seeds, 4): of references on test, on validation, on test; ms an epoch."""
    changes = dict(changes)
    windows, own = changes.pop("windows", 0), set(Fingerprints.model_fields)
    prints = Fingerprints.model_validate({k: v for k, v in changes.items() if k in own})
    options = Training.model_validate({k: v for k, v in changes.items() if k not in own})
    data, rows, window = dataset(file, prints), [], shuffling._WINDOW
    for seed in range(seeds):
        fitted, scored, test = split(data, seed)
        if windows:
            shuffling._WINDOW = fitted.fingerprints.size // windows
        found = train(fitted, scored, options, seed)
        parts = found.fit.references.of(test), found.fit.predict(test)
        wrong = [float(np.abs(part - test.energies).mean()) for part in parts]
        epoch = 1e3 * float(np.median([epoch.seconds for epoch in found.history]))
        rows.append([wrong[0], found.validation_mae, wrong[1], epoch])
    shuffling._WINDOW = window
    return np.array(rows)


def compare(file: str, several: list[dict[str, Any]], seeds: int) -> None:
    """Print a table of options on one file."""
    print(f"\n{Path(file).stem}, {seeds} seeds\n")
    print("| | validation | less the first | test | less the first | ms an epoch |")
    print("|---|---|---|---|---|---|")
    first = None
    for changes in several:
        found = errors(file, changes, seeds)
        if first is None:
            first = found
            print(f"| references alone | | | {found[:, 0].mean():.3g} | | |")
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) or "defaults"
        cells = []
        for column in (1, 2):
            own, more = found[:, column], found[:, column] - first[:, column]
            cells.append(f"{own.mean():.4g} ± {own.std(ddof=1):.2g}")
            cells.append(f"{more.mean():+.2g} ± {more.std(ddof=1) / np.sqrt(seeds):.1g}")
        print(f"| {name} | {' | '.join(cells)} | {np.median(found[:, 3]):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", help=f"{', '.join(GROUPS)}, then files of structures")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    groups = [name for name in given.what if name in GROUPS]
    for group in groups:
        print(f"\n## {group}")
        for file in (name for name in given.what if name not in GROUPS):
            compare(file, GROUPS[group], given.seeds)


if __name__ == "__main__":
    main()
