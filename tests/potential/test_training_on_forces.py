"""Training on the forces and stresses of real structures, to a model's end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ampflow.dataset import Dataset
from ampflow.demo import write_demo
from ampflow.errors import DataError
from ampflow.experiment import Data, Training
from ampflow.fingerprinting import find_source, fingerprint
from ampflow.fingerprints import GMP
from ampflow.potential.calculator import AmpflowCalculator
from ampflow.potential.derivatives import differentiate, load_part
from ampflow.potential.model import Potential
from ampflow.potential.training import Trained, train
from ampflow.reports.accuracy import DERIVATIVES
from ampflow.splits import Splits
from ampflow.tuning.objective import Potentials
from ampflow.winner import train_winner

DESCRIPTOR = GMP(
    sigmas=[0.5, 1.0, 1.5], orders=[0, 1, 2], cutoff=4.0, switch_width=1.0, square=True
)


def _structures(count: int) -> list[Atoms]:
    """Copper crystals of 4 and 8 atoms and some molecules, rattled."""
    found = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + seed % 2)
        if seed % 5 == 0:
            atoms = molecule("H2O")
            atoms.symbols = "OCuCu"
            atoms.positions *= 1.8
        atoms.rattle(0.04 + 0.03 * (seed % 3), seed=seed)
        atoms.calc = EMT()
        found.append(atoms)
    return found


def _crystals(count: int) -> list[Atoms]:
    """Stretched and sheared crystals of copper, some with an atom of gold."""
    found = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        if seed % 3 == 0:
            atoms.symbols[0] = "Au"
        stretch = np.eye(3) + np.random.default_rng(seed).normal(0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        found.append(atoms)
    return found


def _with_stresses(structures: list[Atoms]) -> Dataset:
    stresses = np.array([atoms.get_stress() for atoms in structures])
    derivatives = differentiate(DESCRIPTOR, structures, strained=True)
    return replace(_dataset(structures), stresses=stresses, derivatives=derivatives)


def _dataset(structures: list[Atoms]) -> Dataset:
    return Dataset(
        np.concatenate([DESCRIPTOR.compute(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]),
        np.cumsum([0, *map(len, structures)]),
        np.array([atoms.get_potential_energy() for atoms in structures]),
        np.concatenate([atoms.get_forces() for atoms in structures]),
        differentiate(DESCRIPTOR, structures),
    )


# Derivatives are those of the sparse Jacobian, and stay with their structures.
def test_derivatives() -> None:
    structures = _structures(6)
    data = _dataset(structures)
    taken = data.take(np.array([4, 0])).derivatives
    assert taken is not None
    atom = 0
    for atoms in (structures[4], structures[0]):
        dense = DESCRIPTOR.jacobian(atoms).toarray().reshape(len(atoms), -1, len(atoms), 3)
        for centre in range(len(atoms)):
            found = np.zeros_like(dense[centre])
            for block in range(taken.starts[atom], taken.starts[atom + 1]):
                found[:, taken.moved[block]] += taken.values[block].T
            np.testing.assert_allclose(found, dense[centre], atol=1e-6)
            atom += 1


# The errors of forces that a training reports are those of the potential's own forces; training on
# them makes them smaller than training on energies alone does.
def test_training_on_forces() -> None:
    structures = _structures(60)
    data = _dataset(structures)
    order = np.arange(len(data))
    parts = data.take(order[10:]), data.take(order[:10])
    options = Training(num_layers=2, num_nodes=16, epochs=60, batch_size=8)
    errors = []
    for weight in (0.0, 10.0):
        chosen = options.model_copy(update={"force_weight": weight})
        trained = train(*parts, chosen, seed=0)
        potential = Potential(DESCRIPTOR.config(), trained.fit, chosen)
        wrong = [potential.evaluate(a).forces - a.get_forces() for a in structures[:10]]
        errors.append(np.abs(np.concatenate(wrong)).mean())
        best = trained.history[trained.best_epoch - 1]
        if weight:
            assert best.validation_force_mae == pytest.approx(errors[-1], rel=1e-3)
        else:
            assert best.validation_force_mae is None
    assert errors[1] < 0.6 * errors[0]


# The errors of stresses that a training reports are those of the calculator, whichever networks
# there are; training on them makes them smaller, with forces or without.
@pytest.mark.parametrize("network", ["single", "per-element"])
def test_training_on_stresses(network: str) -> None:
    structures = _crystals(150)
    data, order = _with_stresses(structures), np.arange(150)
    parts = data.take(order[20:]), data.take(order[:20])
    options = Training(
        network=network, num_layers=2, num_nodes=16, epochs=80, batch_size=8, loss="mse"
    )
    errors = []
    for force_weight, stress_weight in ((0.0, 0.0), (0.0, 100.0), (1.0, 100.0)):
        changes = {"force_weight": force_weight, "stress_weight": stress_weight}
        chosen = options.model_copy(update=changes)
        trained = train(*parts, chosen, seed=0)
        potential = AmpflowCalculator(Potential(DESCRIPTOR.config(), trained.fit, chosen))
        wrong = [potential.get_stress(a) - a.get_stress() for a in structures[:20]]
        errors.append(np.abs(wrong).mean())
        best = trained.history[trained.best_epoch - 1]
        assert (best.validation_force_mae is None) == (force_weight == 0)
        if stress_weight:
            assert best.validation_stress_mae == pytest.approx(errors[-1], rel=1e-3)
        else:
            assert best.validation_stress_mae is None
    if network == "single":  # one network has to learn both elements, and needs the stresses more
        assert max(errors[1:]) < 0.7 * errors[0]


# A stopped training on forces and stresses continues bit for bit.
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_resumes(tmp_path: Path, optimizer: str) -> None:
    data = _with_stresses(_crystals(12))
    order = np.arange(len(data))
    parts = data.take(order[3:]), data.take(order[:3])
    options = Training(
        num_nodes=8, epochs=5, force_weight=1.0, stress_weight=10.0, optimizer=optimizer, loss="mse"
    )
    whole = train(*parts, options, seed=0)

    class Stop(BaseException):
        pass

    def stop(epoch: object) -> None:
        raise Stop

    checkpoint = tmp_path / "c.safetensors"
    for _ in range(2):
        with pytest.raises(Stop):
            train(*parts, options, seed=0, checkpoint=checkpoint, on_epoch=stop)
    resumed = train(*parts, options, seed=0, checkpoint=checkpoint)
    np.testing.assert_array_equal(resumed.fit.weights, whole.fit.weights)
    assert [replace(e, seconds=0) for e in resumed.history] == [
        replace(e, seconds=0) for e in whole.history
    ]


# Forces and stresses that are asked for and missing are an error that says so.
def test_missing_labels() -> None:
    data = _dataset(_structures(6))
    with pytest.raises(DataError, match=r"force_weight.*no forces"):
        train(replace(data, forces=None), data, Training(force_weight=1.0), seed=0)
    with pytest.raises(DataError, match=r"stress_weight.*no stress"):
        train(data, data, Training(stress_weight=1.0), seed=0)


# From a file to a trial on stresses; a file without them, or with that of no volume, is refused.
def test_stresses_from_a_file(tmp_path: Path) -> None:
    descriptor = GMP(sigmas=[1.0, 2.0], orders=[0, 1], cutoff=4.0)
    Splits(*np.split(np.arange(12), [8, 10])).write(tmp_path / "split.json")

    def trained(name: str, structures: list[Atoms]) -> Trained:
        ase.io.write(tmp_path / name, structures)
        data = Data(files=[str(tmp_path / name)])
        store = fingerprint(find_source(data), data, descriptor, tmp_path / f"{name}.lmdb")
        return Potentials(store.path, tmp_path / "split.json").train(
            Training(epochs=2, stress_weight=10.0),
            0,
            checkpoint=tmp_path / f"{name}.safetensors",
            on_epoch=lambda _: None,
        )

    crystals = _crystals(12)
    for atoms in crystals:
        atoms.get_stress()
    epoch = trained("a.extxyz", crystals).history[-1]
    assert epoch.validation_stress_mae is not None
    assert epoch.validation_force_mae is None
    stress = crystals[3].get_stress()
    crystals[3] = crystals[3].copy()
    crystals[3].calc = SinglePointCalculator(crystals[3], energy=1.0)
    with pytest.raises(DataError, match="no stress"):
        trained("b.traj", crystals)
    crystals[3].cell, crystals[3].pbc = None, False
    crystals[3].calc = SinglePointCalculator(crystals[3], energy=1.0, stress=stress)
    with pytest.raises(DataError, match=r"structure 3: .*no volume"):
        trained("c.traj", crystals)


# From a file to a trial on forces: a part of a store has the derivatives of its own structures, in
# its order, and a potential trained on them is scored on both.
def test_from_a_file(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.traj", count=12, seed=1)
    data = Data(files=[str(tmp_path / "demo.traj")])
    descriptor = GMP(sigmas=[1.0, 2.0], orders=[0, 1], cutoff=4.0)
    store = fingerprint(find_source(data), data, descriptor, tmp_path / "a.lmdb")
    indices = np.array([7, 2])
    part = load_part(store, indices, Training(force_weight=1.0))
    assert part.derivatives is not None
    expected = differentiate(descriptor, [store.image(index).atoms for index in (7, 2)])
    np.testing.assert_array_equal(part.derivatives.values, expected.values)
    np.testing.assert_array_equal(part.derivatives.moved, expected.moved)
    assert load_part(store, indices, Training()).derivatives is None
    Splits(*np.split(np.arange(12), [8, 10])).write(tmp_path / "split.json")
    trained = Potentials(store.path, tmp_path / "split.json").train(
        Training(epochs=2, force_weight=1.0),
        0,
        checkpoint=tmp_path / "c.safetensors",
        on_epoch=lambda _: None,
    )
    assert trained.history[-1].validation_force_mae is not None


# The table of a winner that was trained on forces and stresses has their errors, structure by
# structure those of its own calculator; a test structure without them has none.
def test_errors_of_a_winner(tmp_path: Path) -> None:
    structures = _crystals(12)
    for number, atoms in enumerate(structures):
        labels = {"energy": atoms.get_potential_energy()}
        if number < 11:
            labels |= {"forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    ase.io.write(tmp_path / "a.traj", structures)
    data = Data(files=[str(tmp_path / "a.traj")])
    store = fingerprint(find_source(data), data, DESCRIPTOR, tmp_path / "a.lmdb")
    splits = Splits(*np.split(np.arange(12), [8, 10]))
    options = Training(epochs=2, force_weight=1.0, stress_weight=10.0)
    winner = train_winner(
        store, splits, options, 0, tmp_path / "c.safetensors", tmp_path / "winner"
    )
    rows = winner.predictions().set_index("structure")
    assert rows.loc[11, list(DERIVATIVES)].isna().all()
    calculator = AmpflowCalculator(Potential.load(winner.model))
    for number in range(11):
        atoms = structures[number]
        pairs = (
            (calculator.get_forces(atoms), atoms.get_forces()),
            (calculator.get_stress(atoms), atoms.get_stress()),
        )
        expected = [np.abs(x).mean() for own, given in pairs for x in (own - given, given)]
        np.testing.assert_allclose(rows.loc[number, list(DERIVATIVES)].astype(float), expected)
    energies = train_winner(
        store, splits, Training(epochs=1), 0, tmp_path / "d.safetensors", tmp_path / "other"
    )
    assert not set(DERIVATIVES) & set(energies.predictions())
