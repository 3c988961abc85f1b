"""One network an element."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from ampflow.dataset import Dataset, Derivatives
from ampflow.errors import DataError
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.derivatives import differentiate
from ampflow.potential.engine import ForceSamples, Samples
from ampflow.potential.model import Potential
from ampflow.potential.network import Network
from ampflow.potential.schedules import batch_ends
from ampflow.potential.state import State
from ampflow.potential.torch_engine import TorchEngine
from ampflow.potential.training import train


def _random(sizes: list[int], forces: bool, precision: str = "float64") -> Samples:
    """Structures of three elements, mixed, whose atoms depend on some others at random."""
    random = np.random.default_rng(len(sizes))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    moved = [np.flatnonzero(random.random(n) < 0.3) for n in sizes for _ in range(n)]
    starts = np.cumsum([0, *map(len, moved)])
    derivatives = Derivatives(
        starts, np.concatenate(moved), random.normal(size=(starts[-1], 3, 6)).astype(np.float32)
    )
    given = ForceSamples(random.normal(size=(offsets[-1], 3)), derivatives, np.full(6, 1.5))
    rows = random.normal(size=(offsets[-1], 6)).astype(precision)
    numbers = random.choice([1, 8, 29], offsets[-1])
    targets = random.normal(size=len(sizes))
    return Samples(rows, offsets, targets, 2.0, given if forces else None, numbers)


NETWORK = Network(6, 2, 7, "silu", (1, 8, 29, 47))  # one that no atom needs


# Loss, gradient and errors are torch's, for one atom, for structures that fill several blocks,
# and for one that needs a longer block than usual.
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("sizes", [[1], [3, 9, 30, 1, 14, 200, 240], [500, 7]])
def test_gradient_is_autograds(sizes: list[int], weight: float) -> None:
    samples, options = (
        _random(sizes, weight > 0),
        Training(precision="float64", loss="mse", force_weight=weight),
    )
    weights = np.random.default_rng(7).normal(0, 0.4, NETWORK.size)
    ours = CpuEngine(NETWORK, samples, samples, options)
    theirs = TorchEngine(NETWORK, samples, samples, options, "cpu")
    for found, expected in zip(
        ours.gradient(weights, key=1), theirs.gradient(weights, key=1), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours.errors(weights), theirs.errors(weights), rtol=1e-10)


# Both engines make the same training.
def test_engines_agree() -> None:
    samples, options = _random([3, 9, 30, 1, 14], False), Training(precision="float64")
    order = np.array([3, 1, 0, 4, 2])
    ends, found = batch_ends(np.diff(samples.offsets)[order], options), []
    for engine in (
        CpuEngine(NETWORK, samples, samples, options),
        TorchEngine(NETWORK, samples, samples, options, "cpu"),
    ):
        state = State.begin(NETWORK.initial(1), options)
        engine.epoch(state, order, ends, 1e-3, key=1)
        found.append(state.weights)
    np.testing.assert_allclose(*found, atol=1e-9)


# Networks with the same weights are one network, whatever the order of the atoms.
def test_equal_networks_are_one() -> None:
    samples, single = _random([3, 9, 30], False), replace(NETWORK, elements=())
    options = Training(precision="float64")
    weights = np.random.default_rng(7).normal(0, 0.4, single.size)
    error = CpuEngine(single, samples, samples, options).errors(weights)[0]
    own = np.tile(weights, NETWORK.count)
    found = CpuEngine(NETWORK, samples, samples, options).errors(own)[0]
    assert found == pytest.approx(error, rel=1e-12)


def _alloys(count: int) -> tuple[list[Atoms], Dataset, GMP]:
    descriptor = GMP(sigmas=[0.5, 1.0], orders=[0, 1], cutoff=4.0, switch_width=1.0, square=True)
    random, structures = np.random.default_rng(0), []
    for index in range(count):
        atoms = Atoms(["Cu4", "Cu3O", "OCu2O", "OCuO2"][index % 4], random.normal(0, 0.2, (4, 3)))
        atoms.positions[:, 0] += 2.4 * np.arange(4)
        atoms.calc = EMT()
        structures.append(atoms)
    data = Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]),
        np.arange(0, 4 * count + 1, 4),
        np.array([atoms.get_potential_energy() for atoms in structures]),
        np.concatenate([atoms.get_forces() for atoms in structures]),
        differentiate(descriptor, structures),
    )
    return structures, data, descriptor


# A trained potential is saved and loaded whole; its forces are the derivative of its energy; what
# training saw of forces is what the potential says; an element that it has not seen is refused.
def test_from_training_to_forces(tmp_path: Path) -> None:
    structures, data, descriptor = _alloys(24)
    options = Training(
        network="per-element", num_layers=2, num_nodes=6, epochs=4, force_weight=0.5,
        precision="float64",
    )  # fmt: skip
    order = np.arange(24)
    trained = train(data.take(order[4:]), data.take(order[:4]), options, seed=0)
    assert trained.fit.network.elements == (8, 29)
    Potential(descriptor.config(), trained.fit, options).save(tmp_path / "model")
    potential = Potential.load(tmp_path / "model")
    found = [potential.evaluate(atoms).forces for atoms in structures[:4]]
    known = trained.history[trained.best_epoch - 1].validation_force_mae
    assert np.abs(np.concatenate(found) - data.forces[:16]).mean() == pytest.approx(known, rel=1e-5)
    moved = structures[2].copy()
    energies = []
    for step in (1e-4, -2e-4):
        moved.positions[1, 1] += step
        energies.append(potential.predict([moved])[0])
    assert -(energies[0] - energies[1]) / 2e-4 == pytest.approx(found[2][1, 1], abs=1e-4)
    with pytest.raises(DataError, match="Ag"):
        potential.predict([Atoms("CuAg", [[0, 0, 0], [2.4, 0, 0]])])
