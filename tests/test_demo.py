from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read

from ampflow.demo import make_demo_structures, write_demo
from ampflow.errors import OptionError


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    return make_demo_structures(120, seed=0)


def test_labels_are_emt_of_the_positions_as_they_are(structures: list[Atoms]) -> None:
    # Energy and forces belong to the final (rattled) positions, and are kept as plain values.
    for atoms in structures[:20]:
        fresh = atoms.copy()
        fresh.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy())
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-10)
        assert atoms.calc.name != "emt"


def test_same_seed_same_structures_and_fewer_are_the_first(structures: list[Atoms]) -> None:
    for again, first in zip(make_demo_structures(10, seed=0), structures, strict=False):
        assert again == first
        assert again.get_potential_energy() == first.get_potential_energy()
    assert make_demo_structures(1, seed=1)[0] != structures[0]


def test_structures_are_apart_and_their_energies_sensible(structures: list[Atoms]) -> None:
    # No two atoms nearer than 0.7 Å, no force or energy that drowns the others.
    for atoms in structures:
        assert 4 <= len(atoms) <= 20
        distances = atoms.get_all_distances(mic=True)
        assert distances[~np.eye(len(atoms), dtype=bool)].min() > 0.7
        assert np.abs(atoms.get_forces()).max() < 10
        assert -1 < atoms.get_potential_energy() / len(atoms) < 2


def test_no_structure_twice(structures: list[Atoms]) -> None:
    assert len({atoms.get_potential_energy() for atoms in structures}) == len(structures)


def test_every_kind_of_boundary_and_element_occurs(structures: list[Atoms]) -> None:
    # Clusters without a cell, slabs with and without a periodic third axis, bulk.
    pbc = {tuple(atoms.pbc.tolist()) for atoms in structures}
    assert pbc == {(False, False, False), (True, True, False), (True, True, True)}
    assert all(atoms.cell.rank == 0 for atoms in structures if not atoms.pbc.any())
    elements = {symbol for atoms in structures for symbol in atoms.symbols}
    assert elements == {"Cu", "Ag", "Au", "Pd", "Pt", "O", "H", "N", "C"}


def test_the_composition_alone_does_not_give_the_energy(structures: list[Atoms]) -> None:
    # What a network has left to learn: a linear reference misses by more than 1 eV, fitted on all.
    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    counts = np.array([[list(a.symbols).count(el) for el in elements] for a in structures])
    energies = np.array([atoms.get_potential_energy() for atoms in structures])
    reference = np.linalg.lstsq(counts, energies, rcond=None)[0]
    assert np.abs(counts @ reference - energies).mean() > 1


@pytest.mark.parametrize("suffix", ["traj", "extxyz", "xyz"])
def test_files_hold_the_structures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"demo.{suffix}"
    write_demo(path, count=6, seed=3)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for got, made in zip(read(path, ":"), make_demo_structures(6, seed=3), strict=True):
        np.testing.assert_allclose(got.positions, made.positions, atol=1e-7)
        assert got.get_potential_energy() == pytest.approx(made.get_potential_energy())
        np.testing.assert_allclose(got.get_forces(), made.get_forces(), atol=1e-7)
        assert (got.pbc == made.pbc).all()


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"demo\.pdf"):
        write_demo(tmp_path / "demo.pdf", count=1)
    with pytest.raises(OptionError, match="count = 0"):
        make_demo_structures(0)
