"""Errors of energies and forces on test against `force_weight`, on a file of structures.

OMP_NUM_THREADS=1 python benchmarks/forces.py water_2d.traj --seeds 4
"""

from __future__ import annotations

import argparse

import numpy as np
from real_data import dataset, split

from ampflow.experiment import Training
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import samples
from ampflow.potential.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--weights", type=float, nargs="*", default=[0, 0.1, 1, 10])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    data = dataset(chosen.file, forces=True)
    print(f"mean size of a force component {np.abs(data.forces).mean():.3g} eV/Å")
    for weight in chosen.weights:
        errors = []
        options = Training(epochs=chosen.epochs, force_weight=weight)
        for seed in range(chosen.seeds):
            fitted, scored, test = split(data, seed)
            fit = train(fitted, scored, options, seed).fit
            measured = options.model_copy(update={"force_weight": weight or 1.0})
            rest = test.energies - fit.references.of(test)
            found = samples(test, rest, fit.scaler, measured)
            engine = CpuEngine(fit.network, found, found, measured)
            energy, force, _ = engine.errors(fit.weights.astype(options.precision))
            errors.append([fit.scaler.energy * error for error in (energy, force)])
        energy, force = np.mean(errors, axis=0)
        print(f"force_weight {weight:6g}: {energy:8.4g} eV {force:8.4g} eV/Å", flush=True)


if __name__ == "__main__":
    main()
