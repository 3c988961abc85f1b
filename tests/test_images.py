from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect

from ampflow.contacts import nearest_pair
from ampflow.errors import DataError
from ampflow.images import Image, Rejected, count_images, expand_files, read_images

KNOWN = frozenset(range(1, 87))


def labelled(atoms: Atoms, energy: float | None = -1.0, forces: np.ndarray | None = None) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def read(*files: Path, known: frozenset[int] = KNOWN) -> list[Image | Rejected]:
    return list(read_images(list(files), min_distance=0.4, known=known))


def water(shift: float = 0.0) -> Atoms:
    atoms = molecule("H2O", vacuum=4.0)
    atoms.positions += shift
    return atoms


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.xyz", "a.db"])
def test_reads_every_format_with_energy_and_forces(tmp_path: Path, name: str) -> None:
    # Energies and forces come back as they were written, structure by structure, in order.
    forces = np.arange(9.0).reshape(3, 3)
    images = [labelled(water(0.01 * i), -1.0 - i, forces) for i in range(3)]
    path = tmp_path / name
    if path.suffix == ".db":
        with connect(path) as database:
            for image in images:
                database.write(image)
    else:
        ase.io.write(path, images)
    found = read(path)
    assert [item.energy for item in found] == pytest.approx([-1.0, -2.0, -3.0])
    assert [item.index for item in found] == [0, 1, 2]
    np.testing.assert_allclose(found[2].forces, forces)
    assert count_images([path]) == (3 if path.suffix in (".traj", ".db") else None)


def test_forces_of_fixed_atoms_are_kept(tmp_path: Path) -> None:
    # ASE's get_forces zeroes fixed atoms; the label is what the file has.
    atoms = water()
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", labelled(atoms, -1.0, np.ones((3, 3))))
    (image,) = read(tmp_path / "a.traj")
    np.testing.assert_array_equal(image.forces, np.ones((3, 3)))


def bad_structures() -> dict[str, Atoms]:
    nan = water()
    nan.positions[1, 0] = np.nan
    flat = Atoms("Cu", cell=[3, 3, 0], pbc=True)
    on_top = Atoms("H2", positions=[[0, 0, 0.05], [0, 0, 9.95]], cell=[5, 5, 10], pbc=True)
    return {
        "has no energy": water(),
        "its energy is nan": labelled(water(), np.nan),
        "force on atom 2": labelled(water(), -1.0, np.array([[0.0] * 3, [0.0] * 3, [np.inf] * 3])),
        "no atoms": labelled(Atoms()),
        "position of atom 1": labelled(nan),
        "cell is missing": labelled(flat),
        "atoms 0 and 1 are 0.100": labelled(on_top),
        "no density for U": labelled(Atoms("U")),
    }


@pytest.mark.parametrize("said", list(bad_structures()))
def test_a_structure_that_cannot_be_used_is_named(tmp_path: Path, said: str) -> None:
    # Each check names the file and the structure's index and spares the others.
    path = tmp_path / "a.traj"
    with ase.io.Trajectory(path, "w") as trajectory:
        trajectory.write(labelled(water(0.1)))
        trajectory.write(bad_structures()[said])
        trajectory.write(labelled(water(0.2)))
    first, bad, last = read(path)
    assert isinstance(first, Image)
    assert isinstance(last, Image)
    assert isinstance(bad, Rejected)
    assert said in bad.reason
    assert f"{path}, structure 1: " in str(bad.error())


def test_exact_duplicates_are_kept_once(tmp_path: Path) -> None:
    # The same structure with the same energy, in any file, is left out; nothing is lost by it.
    ase.io.write(tmp_path / "a.traj", [labelled(water(0.1)), labelled(water(0.2))])
    ase.io.write(tmp_path / "b.traj", [labelled(water(0.2))])
    *_, twin = read(tmp_path / "a.traj", tmp_path / "b.traj")
    assert isinstance(twin, Rejected)
    assert twin.duplicate
    assert f"structure 1 of {tmp_path / 'a.traj'}" in twin.reason


def test_one_structure_with_two_energies_is_bad(tmp_path: Path) -> None:
    # Nobody can fit both: it is not a duplicate but a contradiction.
    ase.io.write(tmp_path / "a.traj", [labelled(water(), -1.0), labelled(water(), -2.0)])
    bad = read(tmp_path / "a.traj")[1]
    assert isinstance(bad, Rejected)
    assert not bad.duplicate
    assert "another energy" in bad.reason


def test_unreadable_files_say_so(tmp_path: Path) -> None:
    # Not a structure file, empty, cut short in the middle.
    (tmp_path / "a.traj").write_text("hello")
    (tmp_path / "b.xyz").write_text("")
    ase.io.write(tmp_path / "c.extxyz", [labelled(water(0.1)), labelled(water(0.2))])
    text = (tmp_path / "c.extxyz").read_text()
    (tmp_path / "c.extxyz").write_text(text[: int(len(text) * 0.8)])
    for name in ("a.traj", "b.xyz", "c.extxyz"):
        *_, last = read(tmp_path / name)
        assert isinstance(last, Rejected), name
        assert name in str(last.error())


def test_expanding_files(tmp_path: Path) -> None:
    # Globs are sorted; what matches nothing, or is named twice, is an error.
    for name in ("b.traj", "a.traj"):
        (tmp_path / name).touch()
    found = expand_files([str(tmp_path / "*.traj")])
    assert [path.name for path in found] == ["a.traj", "b.traj"]
    with pytest.raises(DataError, match=r"no\*\.traj: no such file"):
        expand_files([str(tmp_path / "no*.traj")])
    with pytest.raises(DataError, match=r"a\.traj: named twice"):
        expand_files([str(tmp_path / "a.traj"), str(tmp_path / "*.traj")])


def test_nearest_pair_sees_through_the_cell() -> None:
    # The distance across a periodic face of a skewed cell, as ASE finds it.
    atoms = bulk("Cu", "fcc", a=3.6) * (2, 2, 2)
    atoms.rattle(0.2, seed=1)
    distances = atoms.get_all_distances(mic=True) + 99 * np.eye(len(atoms))
    distance, i, j = nearest_pair(atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    assert distance == pytest.approx(distances.min())
    assert distances[i, j] == pytest.approx(distances.min())


def test_real_structures_can_all_be_used(shared: Path) -> None:
    # Nothing real is rejected but the two exact duplicates of the molybdenum set.
    data = shared / "data"
    oc20 = read(data / "oc20_300_test.traj")
    assert sum(isinstance(item, Image) for item in oc20) == 300
    twins = [item for item in read(data / "snap_mo.db") if isinstance(item, Rejected)]
    assert [item.duplicate for item in twins] == [True, True]
