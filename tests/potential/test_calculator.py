from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ampflow.dataset import Dataset
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.calculator import AmpflowCalculator, load
from ampflow.potential.model import Potential
from ampflow.potential.training import train

SMOOTH = GMP(sigmas=[0.5, 1.0, 1.5], orders=[0, 1, 2], cutoff=4.5, switch_width=1.5, square=True)


def _train(descriptor: GMP, structures: list[Atoms], options: Training) -> Potential:
    data = Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]),
        np.cumsum([0, *map(len, structures)]),
        np.array([atoms.get_potential_energy() for atoms in structures]),
    )
    order = np.arange(len(data))
    fit = train(data.take(order[8:]), data.take(order[:8]), options, seed=0).fit
    return Potential(descriptor.config(), fit, options)


def _copper(seed: int) -> Atoms:
    random = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (1, 1, 1 + seed % 2)
    atoms.set_cell(atoms.cell * random.uniform(0.95, 1.06), scale_atoms=True)
    atoms.rattle(random.uniform(0.02, 0.2), seed=seed)
    atoms.calc = EMT()
    return atoms


@pytest.fixture(scope="module")
def copper() -> Potential:
    options = Training(num_layers=2, num_nodes=16, epochs=150, batch_size=8)
    return _train(SMOOTH, [_copper(seed) for seed in range(88)], options)


def _random(descriptor: GMP, elements: list[int], activation: str) -> Potential:
    """A potential of random weights: what its forces are does not depend on its training."""
    random = np.random.default_rng(0)
    count = 10 * len(elements)
    data = Dataset(
        random.normal(1, 0.5, (count, descriptor.num_features)),
        np.array(elements * 10),
        np.arange(count + 1),
        random.normal(size=count),
    )
    options = Training(num_layers=2, num_nodes=8, epochs=1, activation=activation)
    fit = train(data, data, options, seed=0).fit
    fit.weights[:] = random.normal(0, 0.5, len(fit.weights))
    return Potential(descriptor.config(), fit, options)


def _structures() -> dict[str, Atoms]:
    slab = fcc111("Cu", (2, 2, 3), vacuum=4.0, periodic=False)
    cell = bulk("Cu", cubic=True)
    cell[0].number = 8
    cell.set_cell(cell.cell.array @ [[1, 0.1, 0], [0, 1.05, 0.2], [0, 0, 0.97]], scale_atoms=True)
    water = molecule("H2O")
    water.numbers[1:] = 29
    found = {"slab": slab, "skewed": cell, "molecule": water}
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(0.1, seed=seed)
    return found


# Forces are minus the derivative of the energy, to 1e-4 eV/Å against central differences, for
# every boundary, normalisation and activation, with a smooth and a hard cutoff.
@pytest.mark.parametrize("kind", ["slab", "skewed", "molecule"])
@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({"switch_width": 1.0}, "silu"),
        ({}, "tanh"),
        ({"normalize": "group", "square": True, "switch_width": 2.0}, "gelu"),
    ],
)
def test_forces_are_finite_differences(kind: str, options: dict, activation: str) -> None:
    descriptor = GMP(sigmas=[0.6, 1.2], orders=[0, 1, 2], cutoff=4.2, **options)
    atoms = _structures()[kind]
    atoms.calc = AmpflowCalculator(_random(descriptor, [8, 29], activation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.01
    for atom in range(0, len(atoms), 3):
        for axis in range(3):
            energies = []
            for step in (1e-4, -1e-4):
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                moved.calc = atoms.calc
                energies.append(moved.get_potential_energy())
            difference = -(energies[0] - energies[1]) / 2e-4
            assert forces[atom, axis] == pytest.approx(difference, abs=1e-4)


# Stress is the derivative by a finite strain over the volume, in ASE's order and sign.
@pytest.mark.parametrize("kind", ["slab", "skewed"])
def test_stress_is_finite_strain(kind: str) -> None:
    descriptor = GMP(sigmas=[0.6, 1.2], orders=[0, 1, 2], cutoff=4.2, switch_width=1.0)
    atoms = _structures()[kind]
    calculator = AmpflowCalculator(_random(descriptor, [8, 29], "tanh"))
    atoms.calc = calculator
    stress = atoms.get_stress()
    for place, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = calculator
            energies.append(moved.get_potential_energy())
        difference = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
        assert stress[place] == pytest.approx(difference, abs=1e-6)


# Forces of a whole add up to nothing; a structure without a volume has no stress, but forces.
def test_molecules_have_forces_and_no_stress() -> None:
    atoms = _structures()["molecule"]
    descriptor = GMP(sigmas=[0.6], orders=[0, 1], cutoff=4.2, switch_width=1.0)
    atoms.calc = AmpflowCalculator(_random(descriptor, [8, 29], "tanh"))
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), 0, atol=1e-12)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


# A hard cutoff is warned of, once and where derivatives are asked for; a smooth one is not.
def test_jumps_are_warned_of() -> None:
    atoms = _structures()["molecule"]
    hard = GMP(sigmas=[0.6], orders=[0], cutoff=4.2)
    atoms.calc = AmpflowCalculator(_random(hard, [8, 29], "tanh"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    with pytest.warns(UserWarning, match=r"hard cutoff.*4\.2 Å"):
        atoms.get_forces()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.rattle(0.01)
        atoms.get_forces()


# A trained potential, saved and loaded, relaxes a rattled crystal back to it.
def test_relaxation_converges(copper: Potential, tmp_path: Path) -> None:
    copper.save(tmp_path / "model")
    atoms = _copper(3)
    atoms.set_cell(bulk("Cu", cubic=True).cell.array * [[1], [1], [2]], scale_atoms=True)
    atoms.rattle(0.1, seed=7)
    atoms.calc = load(tmp_path / "model")
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    perfect = bulk("Cu", cubic=True) * (1, 1, 2)
    perfect.calc = atoms.calc
    assert atoms.get_potential_energy() <= perfect.get_potential_energy() + 1e-3


# Energy is conserved in 0.2 ps of NVE dynamics with a smooth cutoff, far below its exchange with
# kinetic energy.
def test_energy_is_conserved(copper: Potential) -> None:
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.rattle(0.15, seed=2)
    atoms.calc = AmpflowCalculator(copper)
    totals, kinetic = [], []
    dynamics = VelocityVerlet(atoms, 2 * units.fs)

    def note() -> None:
        totals.append(atoms.get_total_energy())
        kinetic.append(atoms.get_kinetic_energy())

    dynamics.attach(note)
    dynamics.run(100)
    assert np.ptp(kinetic) > 0.1
    assert np.ptp(totals) < 0.01 * np.ptp(kinetic)
