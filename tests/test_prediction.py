from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from ampflow.cli.app import app
from ampflow.errors import AmpflowError, DataError, OptionError
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.potential.calculator import load
from ampflow.potential.fit import Fit
from ampflow.potential.model import Potential
from ampflow.potential.network import Network
from ampflow.potential.references import ReferenceEnergies
from ampflow.potential.scaling import Scaler
from ampflow.prediction import evaluate, predict

FEATURES = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A potential for H, C and O, of random weights."""
    descriptor = GMP(sigmas=[0.5, 1.0], orders=[0, 1], cutoff=4.0, switch_width=1.0)
    network = Network(FEATURES, 1, 5, "tanh")
    weights = np.random.default_rng(0).normal(size=network.size)
    references = ReferenceEnergies(np.array([1, 6, 8]), np.array([-1.0, -2.0, -3.0]))
    fit = Fit(references, Scaler(np.ones(FEATURES), np.ones(FEATURES), 1.0), network, weights)
    Potential(descriptor.config([1, 6, 8]), fit, Training()).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    path = tmp_path / "molecules.traj"
    molecules = [molecule(name) for name in ("H2O", "CO", "CH4")]
    for atoms in molecules:
        atoms.calc = EMT()
        atoms.get_forces()
    ase.io.write(path, molecules)
    return path


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    """A skewed crystal, its energy, forces and stress; and a molecule, its energy alone."""
    atoms = Atoms("CO", [[0.1, 0, 0.2], [1.7, 1.6, 1.5]], cell=[3.1, 3.3, 3.6], pbc=True)
    atoms.set_cell(atoms.cell @ [[1, 0.1, 0], [0, 1, 0.2], [0.1, 0, 1]], scale_atoms=True)
    other = molecule("CO")
    for one in (atoms, other):
        one.calc = EMT()
        one.get_potential_energy()
    atoms.get_stress()
    ase.io.write(tmp_path / "crystal.extxyz", [atoms, other])
    return tmp_path / "crystal.extxyz"


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


# Energies and forces are the calculator's; each structure keeps its file and index.
def test_predictions_are_the_calculators(model: Path, structures: Path) -> None:
    potential = Potential.load(model)
    found = list(predict(potential, [structures], forces=True))
    assert [(p.file, p.index) for p in found] == [(structures, i) for i in range(3)]
    for prediction in found:
        one = potential.evaluate(prediction.atoms)
        assert prediction.energy == pytest.approx(one.energies.sum(), abs=1e-12)
        np.testing.assert_array_equal(prediction.forces, one.forces)
    assert all(p.forces is None for p in predict(potential, [structures]))


# The table goes to standard output or a .csv, the same one.
def test_predict_writes_tables(model: Path, structures: Path, tmp_path: Path) -> None:
    shown = pd.read_csv(io.StringIO(_run("predict", model, structures)))
    assert list(shown.formula) == ["H2O", "CO", "CH4"]
    assert list(shown.atoms) == [3, 2, 5]
    _run("predict", model, structures, "--out", tmp_path / "p.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv"), shown)
    expected = Potential.load(model).predict(ase.io.read(structures, ":"))
    np.testing.assert_allclose(shown.predicted_ev, expected, rtol=1e-12)


# Structures go out with predicted labels in place of those of the file, wherever these were.
def test_predict_writes_structures(model: Path, structures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.extxyz"
    _run("predict", model, structures, "--out", out, "--forces")
    potential = Potential.load(model)
    for atoms, given in zip(ase.io.read(out, ":"), ase.io.read(structures, ":"), strict=True):
        found = potential.evaluate(given)
        assert atoms.get_potential_energy() == pytest.approx(found.energies.sum(), abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-6)
        np.testing.assert_allclose(atoms.positions, given.positions, atol=1e-6)
        given.info |= {"energy": 1.0, "free_energy": 2.0, "name": "one"}
        given.arrays["forces"] = np.ones((len(given), 3))
        ase.io.write(tmp_path / "noted.traj", given)
        for options in ((), ("--forces",)):
            _run("predict", model, tmp_path / "noted.traj", "--out", out, *options)
            [noted] = ase.io.read(out, ":")
            assert noted.info == {"name": "one"}
            assert noted.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
            assert set(noted.calc.results) - {"energy"} == ({"forces"} if options else set())


# Forces of a hard cutoff are not those of its energy's jumps, and a user hears of it.
def test_hard_cutoff(model: Path, structures: Path, tmp_path: Path) -> None:
    smooth = Potential.load(model)
    replace(smooth, descriptor=smooth.descriptor | {"switch_width": 0.0}).save(tmp_path / "hard")
    for folder, warned in ((model, False), (tmp_path / "hard", True)):
        arguments = ["predict", folder, structures, "--out", tmp_path / "p.extxyz", "--forces"]
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0
        assert ("hard cutoff" in result.stderr) == warned


# What is predicted is not written over.
def test_input_is_kept(model: Path, structures: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.extxyz"
    ase.io.write(given, ase.io.read(structures, ":"))
    before = given.read_bytes()
    with pytest.raises(OptionError, match="one of the files to predict"):
        _run("predict", model, given, "--out", given)
    assert given.read_bytes() == before


# Where the cell has a volume, the stress comes with the forces: the derivative of the energy by a
# strain over the volume, the calculator's to the digits that a file has.
def test_stress_is_predicted(model: Path, crystal: Path, tmp_path: Path) -> None:
    potential = Potential.load(model)
    found, bare = predict(potential, [crystal], forces=True)
    assert bare.stress is None
    assert found.stress is not None
    assert np.abs(found.stress).min() > 1e-5
    for place, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        moved = [found.atoms.copy(), found.atoms.copy()]
        for sign, atoms in zip((1, -1), moved, strict=True):
            strain = np.eye(3)
            strain[i, j] += sign * 5e-6
            strain[j, i] += sign * 5e-6
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        plus, minus = potential.predict(moved)
        difference = (plus - minus) / 2e-5 / found.atoms.get_volume()
        assert found.stress[place] == pytest.approx(difference, abs=1e-6)
    assert all(p.stress is None for p in predict(potential, [crystal]))

    out = tmp_path / "p.extxyz"
    _run("predict", model, crystal, "--out", out, "--forces")
    written, other = ase.io.read(out, ":")
    found.atoms.calc = load(model)
    np.testing.assert_allclose(written.get_stress(), found.atoms.get_stress(), rtol=1e-12)
    assert "stress" not in other.calc.results


# Errors are means of what prediction and label differ by, in the units that are named.
def test_evaluate(model: Path, structures: Path) -> None:
    potential, images = Potential.load(model), ase.io.read(structures, ":")
    wrong = potential.predict(images) - [atoms.get_potential_energy() for atoms in images]
    forces = np.concatenate(
        [potential.evaluate(atoms).forces - atoms.get_forces() for atoms in images]
    )
    shown = json.loads(_run("evaluate", model, structures, "--json"))
    assert (shown["structures"], shown["atoms"]) == (3, 10)
    assert shown["energy_mae_ev"] == pytest.approx(np.abs(wrong).mean())
    assert shown["energy_rmse_ev"] == pytest.approx(np.sqrt((wrong**2).mean()))
    per_atom = 1000 * wrong / [3, 2, 5]
    assert shown["energy_mae_mev_per_atom"] == pytest.approx(np.abs(per_atom).mean())
    assert shown["energy_rmse_mev_per_atom"] == pytest.approx(np.sqrt((per_atom**2).mean()))
    assert shown["forces_mae_ev_per_angstrom"] == pytest.approx(np.abs(forces).mean())
    assert shown["forces_rmse_ev_per_angstrom"] == pytest.approx(np.sqrt((forces**2).mean()))
    table = _run("evaluate", model, structures)
    assert "Force components" in table
    assert f"{shown['energy_mae_ev']:.4g}" in table


# Errors of stresses are over the components of the structures that have one.
def test_evaluate_stress(model: Path, crystal: Path) -> None:
    atoms = ase.io.read(crystal, 0)
    wrong = next(predict(Potential.load(model), [crystal], forces=True)).stress - atoms.get_stress()
    shown = json.loads(_run("evaluate", model, crystal, "--json"))
    assert (shown["structures"], shown["structures_with_stress"]) == (2, 1)
    assert shown["stress_mae_ev_per_cubic_angstrom"] == pytest.approx(np.abs(wrong).mean())
    rmse = pytest.approx(np.sqrt((wrong**2).mean()))
    assert shown["stress_rmse_ev_per_cubic_angstrom"] == rmse
    assert "Stress components" in _run("evaluate", model, crystal)


# Without forces in the file there is no row for them.
def test_evaluate_without_forces(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.xyz"
    path.write_text("2\nProperties=species:S:1:pos:R:3 energy=-5.0\nC 0 0 0\nO 0 0 1.1\n")
    assert evaluate(Potential.load(model), [path]).forces_mae_ev_per_angstrom is None
    shown = _run("evaluate", model, path)
    assert "Force" not in shown
    assert "Stress" not in shown


# What is wrong is said with file and structure.
def test_mistakes(model: Path, structures: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.xyz"
    ase.io.write(mixed, [molecule("H2O"), Atoms("PtH", [[0, 0, 0], [0, 0, 1.6]])])
    potential = Potential.load(model)
    with pytest.raises(DataError, match=r"mixed\.xyz, structure 1: no structure of the train.*Pt"):
        list(predict(potential, [mixed]))
    with pytest.raises(DataError, match=r"mixed\.xyz, structure 0: it has no energy"):
        evaluate(potential, [mixed])
    cut = tmp_path / "cut.xyz"
    cut.write_text("3\n\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"cut\.xyz, structure 0: ASE cannot read it"):
        list(predict(potential, [cut]))
    for arguments, message in (
        (("--out", "p.pdf"), r"p\.pdf.*named so"),
        (("--out", "p.csv", "--forces"), "no place in a table"),
        (("--forces",), "--forces needs a file"),
    ):
        with pytest.raises(OptionError, match=message):
            _run("predict", model, structures, *arguments)
    with pytest.raises(AmpflowError, match="no potential here"):
        _run("predict", tmp_path, structures)
    assert not (tmp_path / "p.csv").exists()


# A prediction that fails half-way leaves no file.
def test_no_half_files(model: Path, structures: Path, tmp_path: Path) -> None:
    other = tmp_path / "platinum.xyz"
    ase.io.write(other, Atoms("Pt"))
    with pytest.raises(DataError):
        _run("predict", model, structures, other, "--out", tmp_path / "p.extxyz")
    assert not (tmp_path / "p.extxyz").exists()
