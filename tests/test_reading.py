from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect

from ampflow.contacts import nearest_pairs
from ampflow.errors import DataError
from ampflow.images import Frame, Image, Rejected
from ampflow.reading import (
    Segment,
    count_images,
    cut_file,
    expand_files,
    read_images,
    read_segment,
)
from ampflow.trajectories import Trajectory

KNOWN = frozenset(range(1, 87))


def labelled(
    atoms: Atoms,
    energy: float | None = -1.0,
    forces: np.ndarray | None = None,
    stress: np.ndarray | None = None,
) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    if stress is not None:
        atoms.calc.results["stress"] = stress
    return atoms


def read(*files: Path, known: frozenset[int] = KNOWN) -> list[Image | Rejected]:
    return list(read_images(list(files), (0.4, known)))


def water(shift: float = 0.0) -> Atoms:
    atoms = molecule("H2O", vacuum=4.0)
    atoms.positions += shift
    return atoms


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.xyz", "a.db"])
def test_reads_every_format_with_its_labels(tmp_path: Path, name: str) -> None:
    # All labels come back as they were written, structure by structure, in order.
    forces, stress = np.arange(9.0).reshape(3, 3), np.arange(6.0)
    images = [labelled(water(0.01 * i), -1.0 - i, forces, stress if i else None) for i in range(3)]
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
    np.testing.assert_allclose(found[2].stress, stress)
    assert found[0].stress is None
    assert count_images([path]) == 3


def test_a_stress_may_be_a_matrix(tmp_path: Path) -> None:
    # Nine components are six, in Voigt's order; what is no stress is an error.
    matrix = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    ase.io.write(tmp_path / "a.traj", labelled(water(), stress=matrix))
    ase.io.write(tmp_path / "b.traj", labelled(water(), stress=np.full(6, np.nan)))
    ase.io.write(tmp_path / "c.traj", labelled(water(), stress=np.zeros(5)))
    good, nan, short = read(*(tmp_path / f"{name}.traj" for name in "abc"))
    np.testing.assert_array_equal(good.stress, [1, 2, 3, 4, 5, 6])
    assert "stress" in nan.reason
    assert "stress" in short.reason


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
    with pytest.raises(DataError, match=f"{tmp_path}: a folder"):
        expand_files([str(tmp_path)])
    with pytest.raises(DataError, match=r"a\.traj: named twice"):
        expand_files([str(tmp_path / "a.traj"), str(tmp_path / "*.traj")])


def test_nearest_pair_sees_through_the_cell() -> None:
    # The distance across a periodic face of a skewed cell, as ASE finds it.
    atoms = bulk("Cu", "fcc", a=3.6) * (2, 2, 2)
    atoms.rattle(0.2, seed=1)
    distances = atoms.get_all_distances(mic=True) + 99 * np.eye(len(atoms))
    apart = Atoms("H2", positions=[[0, 0, 0], [0, 0, 9]])
    both = np.concatenate([atoms.positions, apart.positions, [[0, 0, 0]]])
    cells = np.array([atoms.cell.array, np.zeros((3, 3)), np.eye(3)])
    found, pairs = nearest_pairs(both, np.array([0, 8, 10, 11]), cells)
    assert found == pytest.approx([distances.min(), 9.0, np.inf])
    assert distances[tuple(pairs[0])] == pytest.approx(distances.min())
    assert pairs[1:].tolist() == [[0, 1], [-1, -1]]


def test_real_structures_can_all_be_used(shared: Path) -> None:
    # No check is so strict that it rejects what people compute.
    data = shared / "data"
    oc20 = read(data / "oc20_300_test.traj")
    assert sum(isinstance(item, Image) for item in oc20) == 300
    assert all(isinstance(item, Image) for item in read(data / "snap_mo.db"))


def write(path: Path, images: list[Atoms]) -> None:
    if path.suffix == ".db":
        with connect(path) as database:
            for image in images:
                database.write(image)
    else:
        ase.io.write(path, images)


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.extxyz", "b.xyz"])
def test_segments_are_read_alone(tmp_path: Path, name: str) -> None:
    # Segments cover the file without gap or overlap, and each gives what the whole file has there.
    images = [labelled(water(0.01 * i) * (1, 1, 1 + i % 2), -float(i)) for i in range(11)]
    write(tmp_path / name, images)
    segments = cut_file(tmp_path / name, 4, 1 << 30)
    assert [(part.start, part.stop) for part in segments] == [(0, 4), (4, 8), (8, 11)]
    assert sum(part.size for part in segments) == pytest.approx(
        (tmp_path / name).stat().st_size, abs=len(segments)
    )
    for part in reversed(segments):
        for number, atoms in read_segment(tmp_path / name, part):
            assert isinstance(atoms, Atoms)
            np.testing.assert_allclose(atoms.positions, images[number].positions, atol=1e-8)
            assert atoms.get_potential_energy() == pytest.approx(
                images[number].calc.results["energy"]
            )


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz"])
def test_segments_are_bounded_in_bytes(tmp_path: Path, name: str) -> None:
    # Large structures make short segments: a shard has to fit into memory.
    write(tmp_path / name, [labelled(water(0.1 * i) * (4, 4, 4)) for i in range(20)])
    size = (tmp_path / name).stat().st_size
    segments = cut_file(tmp_path / name, 1000, size // 5)
    assert 4 <= len(segments) <= 7
    assert segments[-1].stop == 20


@pytest.mark.parametrize("name", ["a.xyz.gz", "a.json"])
def test_what_cannot_be_cut_is_one_segment(tmp_path: Path, name: str) -> None:
    # Compressed files and formats without random access are read from beginning to end.
    write(tmp_path / name, [labelled(water(0.1 * i)) for i in range(3)])
    (segment,) = cut_file(tmp_path / name, 1, 1)
    assert segment.stop is None
    assert [number for number, _ in read_segment(tmp_path / name, segment)] == [0, 1, 2]


def test_an_unreadable_structure_spares_those_after_it(tmp_path: Path) -> None:
    # Where structures can be told apart, one that is spoilt is left out alone.
    path = tmp_path / "a.extxyz"
    write(path, [labelled(water(0.1 * i)) for i in range(3)])
    lines = path.read_text().splitlines()
    lines[7] = "O not a number"
    path.write_text("\n".join(lines) + "\n")
    first, bad, last = read(path)
    assert isinstance(first, Image)
    assert isinstance(last, Image)
    assert isinstance(bad, Rejected)
    assert bad.index == 1


def test_xyz_with_cell_vectors_and_blank_end(tmp_path: Path) -> None:
    # Lines of cell vectors belong to the structure before them, and a blank line ends the file.
    one = "1\nenergy\nH 0 0 0\nVEC1 5 0 0\nVEC2 0 5 0\nVEC3 0 0 5\n"
    (tmp_path / "a.xyz").write_text(one * 3 + "\n\n")
    segments = cut_file(tmp_path / "a.xyz", 2, 1 << 30)
    assert [(part.start, part.stop) for part in segments] == [(0, 2), (2, 3)]
    for part in segments:
        for _, atoms in read_segment(tmp_path / "a.xyz", part):
            assert isinstance(atoms, Atoms)
            assert atoms.cell.lengths().tolist() == [5, 5, 5]


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="version" type="string">5.4.4</i></generator>
 <incar><i name="EDIFF">1e-5</i></incar>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray></kpoints>
 <atominfo>
  <atoms>2</atoms><types>1</types>
  <array name="atoms"><set><rc><c>H </c><c>1</c></rc><rc><c>H </c><c>1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>8 0 0</v><v>0 8 0</v><v>0 0 8</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0 0 0.1</v></varray>
 </structure>
 {steps}
</modeling>
"""
VASPRUN_STEP = """<calculation>
  <scstep><energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">{energy}</i>
  <i name="e_0_energy">{energy}</i></energy></scstep>
  <structure>
   <crystal><varray name="basis"><v>8 0 0</v><v>0 8 0</v><v>0 0 8</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0 0 {z}</v></varray>
  </structure>
  <varray name="forces"><v>0 0 -0.5</v><v>0 0 0.5</v></varray>
  <energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">{energy}</i>
  <i name="e_0_energy">{energy}</i></energy>
 </calculation>"""


def test_vasprun(tmp_path: Path) -> None:
    # Every ionic step is a structure, with the energy extrapolated to zero smearing, and forces.
    steps = [
        VASPRUN_STEP.format(free=-6.6 - step, energy=-6.5 - step, z=0.1 + 0.01 * step)
        for step in range(2)
    ]
    (tmp_path / "vasprun.xml").write_text(VASPRUN.format(steps="".join(steps)))
    images = read(tmp_path / "vasprun.xml")
    assert [image.energy for image in images] == [-6.5, -7.5]
    np.testing.assert_allclose(images[1].atoms.positions[1], [0, 0, 0.88])
    np.testing.assert_allclose(images[1].forces, [[0, 0, -0.5], [0, 0, 0.5]])


OUTCAR = """ vasp.5.4.4
 POTCAR:    PAW_PBE H 15Jun2001
   VRHFIN =H: ultrasoft test
   ions per type =               2
   ISPIN  =      1    spin polarized calculation?
{steps}
"""
OUTCAR_STEP = """----------------------------------------- Iteration    {step}(   1)  -----
      direct lattice vectors                 reciprocal lattice vectors
     8.000000000  0.000000000  0.000000000     0.125000000  0.000000000  0.000000000
     0.000000000  8.000000000  0.000000000     0.000000000  0.125000000  0.000000000
     0.000000000  0.000000000  8.000000000     0.000000000  0.000000000  0.125000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000     -0.500000
      0.00000      0.00000      {z:.5f}         0.000000      0.000000      0.500000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        {free:.6f} eV

  energy  without entropy=       {energy:.6f}  energy(sigma->0) =       {energy:.6f}

"""


def test_outcar(tmp_path: Path) -> None:
    # The same of an OUTCAR.
    steps = [
        OUTCAR_STEP.format(step=step + 1, z=0.8 + step / 10, free=-6.6 - step, energy=-6.5 - step)
        for step in range(2)
    ]
    (tmp_path / "OUTCAR").write_text(OUTCAR.format(steps="".join(steps)))
    images = read(tmp_path / "OUTCAR")
    assert [image.energy for image in images] == [-6.5, -7.5]
    np.testing.assert_allclose(images[1].atoms.positions[1], [0, 0, 0.9])
    np.testing.assert_allclose(images[1].forces, [[0, 0, -0.5], [0, 0, 0.5]])
    assert cut_file(tmp_path / "OUTCAR", 1, 1) == [
        Segment(0, None, (tmp_path / "OUTCAR").stat().st_size)
    ]


def unusual(path: Path, shared: Path) -> dict[int, Atoms]:
    """Write structures of every kind that ASE's trajectories can hold; return them as ASE reads."""
    mixed = [
        labelled(water(0.1), -1.0, np.arange(9.0).reshape(3, 3)),
        labelled(water(0.2), -2.0),  # numbers and pbc are with the first of its kind only
        labelled(water(0.3)),
        labelled(bulk("Cu") * (1, 1, 2), -3),  # a whole number
        labelled(molecule("O2", magmoms=[1, 1]), -1.5, np.zeros((2, 3), dtype=np.float32)),
        labelled(Atoms("H", pbc=[True, False, True], cell=[3, 4, 5]), np.inf),
        water(0.4),
    ]
    mixed[2].set_constraint(FixAtoms([0]))
    mixed[6].info["key"] = {"1": [1, 2]}
    ase.io.write(path, [*mixed, *ase.io.read(shared / "data" / "oc20_300_test.traj", ":20")])
    with ase.io.Trajectory(path) as trajectory:
        return dict(enumerate(trajectory))


def test_trajectories_are_read_as_ase_reads_them(tmp_path: Path, shared: Path) -> None:
    # What is read straight into arrays is to the bit what ASE makes of the file.
    expected = unusual(tmp_path / "a.traj", shared)
    with Trajectory(tmp_path / "a.traj") as trajectory:
        for number, atoms in expected.items():
            frame = trajectory.frame(number)
            assert frame is not None
            for found, wanted in zip(frame, Frame.of(atoms), strict=True):
                np.testing.assert_array_equal(found, wanted)
                assert getattr(found, "dtype", float) == getattr(wanted, "dtype", float)


def test_what_is_unusual_in_a_trajectory_is_left_to_ase(tmp_path: Path) -> None:
    # Descriptions that ASE does not write, and files that are none, are not guessed at.
    path = tmp_path / "a.traj"
    ase.io.write(path, [labelled(water(0.1)), labelled(water(0.2), -2.0, np.ones((3, 3)))])
    content = path.read_bytes()
    spoilt = {
        "another key": content.replace(b'"positions."', b'"position_."'),
        "another type": content.replace(b'"float64"', b'"float99"'),
        "other shapes": content.replace(b"[3, 3]", b"[9, 1]"),
        "forces as a list": content.replace(b'"forces."', b'"forces" '),
        "no JSON": content.replace(b'{"', b"{{"),
        "big endian": content.replace(b'"name": "unknown"', b'"energy.": [0.000]'),
        "cut short": content[: content.rindex(b'"forces."')],
        "not one": b"hello" * 100,
    }
    for name, bytes_ in spoilt.items():
        assert bytes_ != content, name
        path.write_bytes(bytes_)
        with Trajectory(path) as trajectory:
            assert trajectory.frame(1) is None, name
    path.write_bytes(content)
    with Trajectory(path) as trajectory:
        assert trajectory.frame(1) is not None
        assert trajectory.frame(2) is None


def test_trajectories_need_no_readers_of_ase(tmp_path: Path) -> None:
    # Importing those takes longer than most files.
    ase.io.write(tmp_path / "a.traj", [labelled(water(0.1), -1.0)])
    code = (
        "import sys; from pathlib import Path; from ampflow.reading import read_images;"
        "(image,) = read_images([Path(sys.argv[1])], (0.1, frozenset([1, 8])));"
        "print(image.energy, [m for m in ('ase.io', 'ase.db') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.traj"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "-1.0 []"
