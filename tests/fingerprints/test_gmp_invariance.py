from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ampflow.fingerprints import GMP, Densities
from ampflow.fingerprints.copies import complete_cell
from ampflow.fingerprints.neighbours import half_pairs

DENSITIES = Densities(
    {
        1: np.array([[0.4, 1.7], [0.9, 11.0]]),
        8: np.array([[-16.0, 21.0], [13.0, 11.0], [4.7, 3.8], [0.4, 1.3]]),
        78: np.array([[-2181.0, 4.4845], [2205.0, 4.4840], [1.4, 1.07]]),
    }
)
CUTOFF = 4.0
OPTIONS: dict[str, Any] = {
    "sigmas": [0.02, 0.3, 0.8, 1.3, 3.0],
    "cutoff": CUTOFF,
    "densities": DENSITIES,
}
SOLID = GMP(orders=[0, 1, 2, 3, 6], **OPTIONS)
SURFACE = GMP(orders=[0, 1, 2, 3, 6], harmonics="surface", **OPTIONS)
GROUP = GMP(orders=[0, 1, 2, 3, 4], normalize="group", **OPTIONS)

seeds = st.integers(0, 2**32 - 1)
quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    """1 to 5 atoms in a cell of any shape and handedness, periodic along any axes."""
    random = np.random.default_rng(draw(seeds))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    count = draw(st.integers(1, 5))
    cell = random.normal(0, 3, (3, 3))
    flat = abs(np.linalg.det(cell)) / np.prod(np.linalg.norm(cell, axis=1))
    assume(flat > 0.2 and abs(np.linalg.det(cell)) > 12)
    positions = random.uniform(-1, 2, (count, 3)) @ cell
    atoms = Atoms(random.choice([1, 8, 78], count), positions, cell=cell, pbc=pbc)
    distances = pair_distances(atoms, CUTOFF + 0.1)
    # No atoms on top of another, no pair that rounding could carry across the cutoff.
    assume(len(distances) == 0 or distances.min() > 0.5)
    assume(not np.any(np.abs(distances - CUTOFF) < 1e-6))
    return atoms


def pair_distances(atoms: Atoms, cutoff: float) -> NDArray[np.float64]:
    cell = complete_cell(atoms.cell.array, atoms.pbc)
    offsets = np.array([0, len(atoms)])
    pairs = half_pairs(atoms.positions, offsets, cell[None], atoms.pbc[None], cutoff)
    found = slice(pairs.found)
    return np.sqrt(pairs.x[found] ** 2 + pairs.y[found] ** 2 + pairs.z[found] ** 2)


def assert_same(descriptor: GMP, one: Atoms, other: Atoms, rows: Any = slice(None)) -> None:
    first, second = descriptor.compute(one)[rows], descriptor.compute(other)
    scale = np.abs(descriptor.compute(one)).max(axis=0)
    # A column that vanishes but for rounding is compared with the others.
    assert (np.abs(first - second) <= 1e-9 * scale + 1e-13 * scale.max()).all()


@quick
@given(structures(), seeds)
def test_rotation(atoms: Atoms, seed: int) -> None:
    # Features normalised by order do not change when structure and cell are rotated.
    turn = Rotation.random(random_state=seed).as_matrix()
    turned = Atoms(atoms.numbers, atoms.positions @ turn, cell=atoms.cell.array @ turn)
    turned.pbc = atoms.pbc
    assert_same(SOLID, atoms, turned)
    assert_same(SURFACE, atoms, turned)


@quick
@given(structures(), seeds)
def test_mirrors_and_axes(atoms: Atoms, seed: int) -> None:
    # Renaming the axes leaves groups unchanged; mirrors all but the signed ones.
    random = np.random.default_rng(seed)
    axes = random.permutation(3)
    swapped = Atoms(atoms.numbers, atoms.positions[:, axes], cell=atoms.cell.array[:, axes])
    swapped.pbc = atoms.pbc
    assert_same(GROUP, atoms, swapped)
    mirrored = Atoms(atoms.numbers, -atoms.positions, cell=-atoms.cell.array, pbc=atoms.pbc)
    assert_same(SOLID, atoms, mirrored)


@quick
@given(structures(), seeds)
def test_translation(atoms: Atoms, seed: int) -> None:
    # Moving everything, also across cell faces, changes nothing.
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).uniform(-20, 20, 3)
    for descriptor in (SOLID, GROUP):
        assert_same(descriptor, atoms, moved)


@quick
@given(structures(), seeds)
def test_permutation(atoms: Atoms, seed: int) -> None:
    # Rows follow the atoms.
    order = np.random.default_rng(seed).permutation(len(atoms))
    for descriptor in (SOLID, GROUP):
        assert_same(descriptor, atoms, atoms[order], order)


@quick
@given(structures(), seeds)
def test_images_of_atoms(atoms: Atoms, seed: int) -> None:
    # An atom and its periodic images are the same atom.
    steps = np.random.default_rng(seed).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    moved = atoms.copy()
    moved.positions += steps @ atoms.cell.array
    assert_same(SOLID, atoms, moved)


@quick
@given(structures(), st.integers(0, 2), st.integers(0, 2), st.integers(-3, 3))
def test_choice_of_cell(atoms: Atoms, axis: int, other: int, times: int) -> None:
    # Another basis of the same lattice gives the same features.
    assume(axis != other and atoms.pbc[axis] and atoms.pbc[other])
    sheared = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[axis] += times * cell[other]
    sheared.set_cell(cell)
    assert_same(SOLID, atoms, sheared)
    sheared.set_cell(np.diag([1, -1, 1]) @ cell)
    assert_same(SOLID, atoms, sheared)


@quick
@given(structures(), st.integers(0, 2))
def test_supercell(atoms: Atoms, axis: int) -> None:
    # Every copy in a supercell has its atom's features.
    assume(atoms.pbc[axis])
    times = np.ones(3, dtype=int)
    times[axis] = 2
    larger = make_supercell(atoms, np.diag(times), order="cell-major")
    assert_same(SOLID, atoms, larger, np.tile(np.arange(len(atoms)), 2))


@quick
@given(structures(), seeds)
def test_open_axes_ignore_the_cell(atoms: Atoms, seed: int) -> None:
    # Vectors of axes that are not periodic mean nothing, even where they are missing.
    changed = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[~atoms.pbc] = np.random.default_rng(seed).choice([0.0, 1.0, 7.0])
    changed.set_cell(cell)
    assert_same(SOLID, atoms, changed)
