from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read

import ampflow
from ampflow.dataset import Dataset
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.ensemble import Ensemble, calibrate
from ampflow.potential.fit import Fit
from ampflow.potential.model import Potential
from ampflow.potential.network import Network
from ampflow.potential.references import ReferenceEnergies
from ampflow.potential.scaling import Scaler
from ampflow.potential.training import train
from ampflow.prediction import predict, table, write

Make = Callable[..., Dataset]
DESCRIPTOR = GMP(sigmas=[0.5, 1.0], orders=[0, 1], cutoff=4.0, switch_width=1.0, square=True)


@pytest.fixture(scope="module")
def trained(make: Make) -> Ensemble:
    options = Training(num_layers=1, num_nodes=8, epochs=15)
    fits = [train(make(60, seed=1), make(20, seed=2), options, seed=s).fit for s in range(4)]
    return Ensemble([Potential({}, fit, options) for fit in fits])


@pytest.fixture
def untrained() -> Ensemble:
    """Potentials of random weights for H and O, with an interval."""
    network, ones = Network(4, 1, 5, "tanh"), np.ones(4)
    references = ReferenceEnergies(np.array([1, 8]), np.array([-1.0, -3.0]))
    weights = np.random.default_rng(0).normal(size=(3, network.size))
    fits = [Fit(references, Scaler(ones, ones, 1.0), network, row) for row in weights]
    config = DESCRIPTOR.config([1, 8])
    return Ensemble([Potential(config, fit, Training()) for fit in fits], 0.8, 2.0, 0.1)


# Intervals calibrated on some structures hold for the level's share of others, whatever it is.
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage(trained: Ensemble, make: Make, level: float) -> None:
    ensemble = calibrate(replace(trained, level=level), make(600, seed=3))
    test = make(1500, seed=4)
    mean, half = ensemble.predict(test)
    assert (np.abs(mean - test.energies) <= half).mean() == pytest.approx(level, abs=0.05)
    assert np.std(half) > 0


# On the structures it was calibrated on an interval holds for the next whole number of them.
def test_calibration_is_split_conformal(trained: Ensemble, make: Make) -> None:
    data = make(19, seed=5)
    mean, half = calibrate(replace(trained, level=0.9), data).predict(data)
    assert (np.abs(mean - data.energies) <= half * (1 + 1e-12)).sum() == 18
    with pytest.raises(DataError, match="at least 9"):
        calibrate(replace(trained, level=0.9), make(8, seed=5))
    assert np.isfinite(calibrate(replace(trained, level=0.9), make(9, seed=5)).factor)


# The ensemble is the mean of its members, in energy, forces and stress; what is loaded is what was
# saved, and the calculator has the interval beside the energy.
def test_calculator(untrained: Ensemble, tmp_path: Path) -> None:
    untrained.save(tmp_path / "ensemble")
    atoms = molecule("H2O")
    atoms.center(3.0)
    atoms.calc = ampflow.load(tmp_path / "ensemble")
    single = [member.evaluate(atoms) for member in untrained.members]
    energies = [one.energies.sum() for one in single]
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-10)
    expected = 2.0 * (np.std(energies, ddof=1) + 0.1)
    assert atoms.calc.results["energy_uncertainty"] == pytest.approx(expected)
    np.testing.assert_allclose(
        atoms.get_forces(), np.mean([one.forces for one in single], axis=0), atol=1e-12
    )
    strain = np.mean([one.strain for one in single], axis=0)
    np.testing.assert_allclose(
        atoms.get_stress(voigt=False), (strain + strain.T) / 2 / atoms.get_volume(), atol=1e-12
    )


# What is damaged or newer says so.
def test_unusable_folder(untrained: Ensemble, tmp_path: Path) -> None:
    folder = tmp_path / "ensemble"
    untrained.save(folder)
    said = json.loads((folder / "ensemble.json").read_text())
    untrained.members[0].save(folder / "member1")
    with pytest.raises(StorageError, match="damaged: member1 is another potential"):
        ampflow.load(folder)
    with pytest.raises(StorageError, match="an ensemble, and one potential is needed"):
        Potential.load(folder)
    untrained.save(folder)
    (folder / "ensemble.json").write_text(json.dumps({**said, "schema_version": 9}))
    with pytest.raises(StorageError, match="newer ampflow"):
        ampflow.load(folder)
    (folder / "ensemble.json").write_text("{}")
    with pytest.raises(StorageError, match="damaged"):
        ampflow.load(folder)


# Predictions of files have the interval in their table, and in structures.
def test_predictions(untrained: Ensemble, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.write(tmp_path / "water.xyz")
    rows = table(predict(untrained, [tmp_path / "water.xyz"]))
    found = untrained.evaluate(read(tmp_path / "water.xyz"))
    assert rows.predicted_ev[0] == pytest.approx(found.energies.sum())
    assert rows.half_width_ev[0] == pytest.approx(found.half_width)
    write(predict(untrained, [tmp_path / "water.xyz"]), tmp_path / "out.extxyz")
    uncertainty = read(tmp_path / "out.extxyz").info["energy_uncertainty"]
    assert uncertainty == pytest.approx(found.half_width, rel=1e-6)
