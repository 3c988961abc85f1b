"""Errors of energies and forces on test against `force_weight`, on a file of structures.

OMP_NUM_THREADS=1 python benchmarks/forces.py water_2d.traj --seeds 4
"""

from __future__ import annotations

import argparse

import ase.io
import numpy as np

from ampflow.dataset import Dataset
from ampflow.experiment import Fingerprints, Training
from ampflow.fingerprinting import make_descriptor
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.derivatives import differentiate
from ampflow.potential.engine import samples
from ampflow.potential.training import train


def parts(data: Dataset, seed: int) -> list[Dataset]:
    """Divide into train, validation and test, 8 to 1 to 1, with every element in train."""
    order, seen, first = np.random.default_rng(seed).permutation(len(data)), set(), []
    for index in order:
        elements = set(data.numbers[slice(*data.offsets[index : index + 2])].tolist())
        if elements - seen:
            first.append(index)
            seen |= elements
    rest, tenth = np.setdiff1d(order, first, assume_unique=True), len(data) // 10
    train_part = np.concatenate([first, rest[2 * tenth :]])
    return [data.take(chosen) for chosen in (train_part, rest[:tenth], rest[tenth : 2 * tenth])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--weights", type=float, nargs="*", default=[0, 0.1, 1, 10])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    images, descriptor = ase.io.read(chosen.file, ":"), make_descriptor(Fingerprints())
    data = Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in images]),
        np.concatenate([atoms.numbers for atoms in images]),
        np.cumsum([0, *map(len, images)]),
        np.array([atoms.get_potential_energy() for atoms in images]),
        np.concatenate([atoms.get_forces(apply_constraint=False) for atoms in images]),
        differentiate(descriptor, images),
    )
    print(f"mean size of a force component {np.abs(data.forces).mean():.3g} eV/Å")
    for weight in chosen.weights:
        errors = []
        options = Training(epochs=chosen.epochs, force_weight=weight)
        for seed in range(chosen.seeds):
            fitted, scored, test = parts(data, seed)
            fit = train(fitted, scored, options, seed).fit
            measured = options.model_copy(update={"force_weight": weight or 1.0})
            rest = test.energies - fit.references.of(test)
            found = samples(test, rest, fit.scaler, measured)
            engine = CpuEngine(fit.network, found, found, measured)
            both = engine.errors(fit.weights.astype(options.precision))
            errors.append([fit.scaler.energy * error for error in both])
        energy, force = np.mean(errors, axis=0)
        print(f"force_weight {weight:6g}: {energy:8.4g} eV {force:8.4g} eV/Å", flush=True)


if __name__ == "__main__":
    main()
