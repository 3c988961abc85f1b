"""Energy drift of NVE dynamics with a trained potential: hard cutoff beside smooth ones.

    OMP_NUM_THREADS=1 python benchmarks/nve.py

Copper crystals with EMT energies train one potential a cutoff; 32 atoms then move at about 600 K.
Printed: drift (slope of a line through the total energy), root mean square of the total energy
about that line, and the largest jump between two steps beyond what the integrator does.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from ampflow.dataset import Dataset
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.calculator import AmpflowCalculator
from ampflow.potential.model import Potential
from ampflow.potential.training import train

CUTOFF, STRUCTURES = 5.0, 200


def crystal(seed: int) -> Atoms:
    random = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (1, 1 + seed % 2, 2)
    atoms.set_cell(atoms.cell * random.uniform(0.95, 1.06), scale_atoms=True)
    atoms.rattle(random.uniform(0.05, 0.3), seed=seed)
    atoms.calc = EMT()
    return atoms


def potential(switch_width: float, square: bool) -> Potential:
    descriptor = GMP([0.5, 1.0, 1.5, 2.0], [0, 1, 2], CUTOFF, "order", "solid", square)
    config = descriptor.config([29]) | {"switch_width": switch_width}
    descriptor = GMP.from_config(config)
    structures = [crystal(seed) for seed in range(STRUCTURES)]
    data = Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]),
        np.cumsum([0, *map(len, structures)]),
        np.array([atoms.get_potential_energy() for atoms in structures]),
    )
    order, options = np.arange(STRUCTURES), Training(epochs=100)
    fit = train(data.take(order[20:]), data.take(order[:20]), options, seed=0).fit
    return Potential(config, fit, options)


def energies(model: Potential, step: float, steps: int) -> np.ndarray:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    MaxwellBoltzmannDistribution(atoms, temperature_K=1200, rng=np.random.default_rng(0))
    atoms.calc = AmpflowCalculator(model)
    found: list[float] = []
    dynamics = VelocityVerlet(atoms, step * units.fs)
    dynamics.attach(lambda: found.append(atoms.get_total_energy()))
    dynamics.run(steps)
    return 1000 * np.array(found) / len(atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picoseconds", type=float, default=5.0)
    parser.add_argument("--step", type=float, default=2.0, help="fs")
    options = parser.parse_args()
    steps = int(1000 * options.picoseconds / options.step)
    times = np.arange(steps + 1) * options.step / 1000
    print(f"{'fingerprints':32s}{'meV/atom/ps':>14s}{'rms meV/atom':>14s}{'jump meV':>10s}")
    for square in (False, True):
        for width in (0.0, 0.5, 1.0, 2.0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = energies(potential(width, square), options.step, steps)
            slope, rest = np.polyfit(times, found, 1)
            name = f"switch_width {width:g} Å{', squared' if square else ''}"
            rms = np.std(found - slope * times - rest)
            jump = np.abs(np.diff(found)).max()
            print(f"{name:32s}{slope:14.4f}{rms:14.4f}{jump:10.4f}", flush=True)


if __name__ == "__main__":
    main()
