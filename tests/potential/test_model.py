from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from ampflow.dataset import Dataset
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential import model
from ampflow.potential.calculator import AmpflowCalculator, load
from ampflow.potential.model import Potential
from ampflow.potential.training import train

Make = Callable[..., Dataset]

OPTIONS = Training(num_layers=2, num_nodes=6, epochs=3)


class FakeGMP:
    """Stands in for the descriptor: features of an atom from its distances alone."""

    def compute(self, atoms: Atoms) -> np.ndarray:
        distances = atoms.get_all_distances()
        return np.stack([np.exp(-((distances / width) ** 2)).sum(1) for width in range(1, 6)], 1)


@pytest.fixture
def potential(make: Make) -> Potential:
    fit = train(make(40, seed=1), make(12, seed=2), OPTIONS, seed=0).fit
    return _fake(Potential({"sigmas": [1.0]}, fit, OPTIONS, {"seed": 0}))


def _fake(potential: Potential) -> Potential:
    vars(potential)["fingerprints"] = FakeGMP()
    return potential


WATER = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
METHANE_PAIR = Atoms("CHOH", [[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, 1.3]])


# What is loaded is what was saved, to the last bit of every prediction.
def test_round_trip(potential: Potential, tmp_path: Path) -> None:
    potential.save(tmp_path / "model")
    loaded = _fake(Potential.load(tmp_path / "model"))
    assert loaded.descriptor == potential.descriptor
    assert loaded.options == potential.options
    assert loaded.provenance == potential.provenance
    structures = [WATER, METHANE_PAIR]
    np.testing.assert_array_equal(loaded.predict(structures), potential.predict(structures))


# Saving again replaces the folder whole, and leaves nothing beside it.
def test_saving_replaces(potential: Potential, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    potential.save(folder)
    replace(potential, provenance={"seed": 1}).save(folder)
    assert Potential.load(folder).provenance == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# Structures are predicted one by one as together; the calculator says the same.
def test_calculator_agrees(potential: Potential) -> None:
    together = potential.predict([WATER, METHANE_PAIR])
    for atoms, energy in zip([WATER.copy(), METHANE_PAIR.copy()], together, strict=True):
        atoms.calc = AmpflowCalculator(potential)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        assert atoms.get_potential_energies().sum() == pytest.approx(energy, abs=1e-9)
    assert potential.predict([]).shape == (0,)


# A structure that moved is computed anew.
def test_calculator_notices_changes(potential: Potential) -> None:
    atoms = WATER.copy()
    atoms.calc = AmpflowCalculator(potential)
    before = atoms.get_potential_energy()
    atoms.positions[1] *= 1.3
    assert atoms.get_potential_energy() != before


# An element that training has not seen has no energy, not the energy zero.
def test_unseen_element(potential: Potential) -> None:
    with pytest.raises(DataError, match="Pt"):
        potential.predict([WATER, Atoms("PtH", [[0, 0, 0], [1.5, 0, 0]])])


# Fingerprints of another length than those trained on are refused.
def test_other_fingerprints(potential: Potential, make: Make) -> None:
    data = make(4)
    with pytest.raises(DataError, match="4 features"):
        potential.fit.predict(replace(data, fingerprints=data.fingerprints[:, :4]))


def _edit(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "model.json").read_text())
    kept = {k: v for k, v in {**description, **changes}.items() if v is not None}
    (folder / "model.json").write_text(json.dumps(kept))


# Each way a folder can be wrong has a message that says so.
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "no potential here"),
        (lambda f: (f / "weights.safetensors").unlink(), "damaged.*weights"),
        (lambda f: (f / "model.json").write_text("{"), "damaged.*not valid JSON"),
        (lambda f: (f / "model.json").write_text("[]"), "no schema_version"),
        (lambda f: _edit(f, schema_version=99), "newer ampflow"),
        (lambda f: _edit(f, digest=None, network=None), "'network' is missing"),
        (lambda f: _edit(f, digest=None, network={"features": 5}), "damaged"),
        (lambda f: _edit(f, digest=None, training={"num_layers": 0}), "damaged"),
        (lambda f: _edit(f, energy_scale=9.0), "model.json is not the file that was saved"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"x" * 99), "not the file that was"),
    ],
)
def test_unusable_folder(potential: Potential, tmp_path: Path, damage, message: str) -> None:
    folder = tmp_path / "model"
    potential.save(folder)
    damage(folder)
    with pytest.raises(StorageError, match=message):
        load(folder)
    with pytest.raises(StorageError, match="no potential here"):
        load(tmp_path / "nowhere")


def _cluster(symbols: str, seed: int) -> Atoms:
    atoms = Atoms(symbols, np.random.default_rng(seed).normal(0, 0.1, (len(Atoms(symbols)), 3)))
    atoms.positions[:, 0] += 2.4 * np.arange(len(atoms))
    atoms.calc = EMT()
    return atoms


# With real fingerprints and real energies: what is saved predicts as what was trained, and an
# element that has fingerprints but was not trained on is refused.
def test_from_structures_to_calculator(tmp_path: Path) -> None:
    structures = [_cluster(s, i) for i, s in enumerate(["Cu4", "Cu3O", "Cu2O2", "CuO3"] * 6)]
    descriptor = GMP(sigmas=[0.5, 1.0], orders=[0, 1], cutoff=4.0)
    data = Dataset(
        np.concatenate([descriptor.compute(atoms) for atoms in structures]),
        np.concatenate([atoms.numbers for atoms in structures]),
        np.arange(0, 4 * len(structures) + 1, 4),
        np.array([atoms.get_potential_energy() for atoms in structures]),
    )
    order = np.arange(len(data))
    trained = train(data.take(order[4:]), data.take(order[:4]), OPTIONS, seed=0)
    Potential(descriptor.config(), trained.fit, OPTIONS).save(tmp_path / "model")
    calculator = load(tmp_path / "model")
    errors = []
    for atoms, energy in zip(structures[:4], data.energies, strict=False):
        copy = atoms.copy()
        copy.calc = calculator
        errors.append(abs(copy.get_potential_energy() - energy))
    assert np.mean(errors) == pytest.approx(trained.validation_mae, rel=1e-4)
    other = _cluster("CuNi", 0)
    other.calc = calculator
    with pytest.raises(DataError, match="Ni"):
        other.get_potential_energy()


MODELS = Path(__file__).with_name("models")


# A folder of every version that was ever written loads, and predicts what it did then.
@pytest.mark.parametrize("version", range(1, model.SCHEMA_VERSION + 1))
def test_old_folders(version: int) -> None:
    folder = MODELS / f"version{version}"
    potential = Potential.load(folder)
    expected = json.loads((folder / "expected.json").read_text())
    atoms = Atoms(expected["symbols"], expected["positions"])
    found = potential.evaluate(atoms)
    assert found.energies.sum() == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(found.forces, expected["forces"], atol=1e-9)
    assert json.loads((folder / "model.json").read_text())["schema_version"] == version


# An older description goes through every upgrade up to the present version, in order.
def test_upgrades(potential: Potential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    potential.save(tmp_path / "model")
    now = model.SCHEMA_VERSION
    upgrades = {
        now: lambda old: {**old, "provenance": {"seen": [1]}},
        now + 1: lambda old: {**old, "provenance": {"seen": [*old["provenance"]["seen"], 2]}},
    }
    monkeypatch.setattr(model, "SCHEMA_VERSION", now + 2)
    monkeypatch.setattr(model, "_UPGRADES", upgrades)
    assert Potential.load(tmp_path / "model").provenance == {"seen": [1, 2]}
