from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from brute_force import brute_force
from structures import DENSITIES, STRUCTURES

from ampflow.digests import digest
from ampflow.errors import DataError, OptionError
from ampflow.fingerprints import GMP, Densities, read_densities
from ampflow.fingerprints.gmp import KERNEL_VERSION
from ampflow.fingerprints.placing import join_atoms


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("kind", ["solid", "surface", "group"])
def test_definition(name: str, kind: str) -> None:
    # Features are what the definition says, by quadrature over explicit images.
    atoms = STRUCTURES[name]
    options: dict[str, Any] = {
        "sigmas": [0.3, 1.1],
        "orders": [0, 1, 2, 3],
        "cutoff": 3.7,
        "normalize": "group" if kind == "group" else "order",
        "harmonics": "solid" if kind == "solid" else "surface",
        "square": name.startswith("s"),
    }
    ours = GMP(densities=DENSITIES, **options).compute(atoms)
    assert_exact(ours, brute_force(atoms, DENSITIES.gaussians, **options))


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("kind", ["solid", "surface", "group"])
def test_high_orders(kind: str, square: bool) -> None:
    # The same for every order up to 8.
    options: dict[str, Any] = {
        "sigmas": [0.6],
        "orders": [4, 5, 6, 7, 8],
        "cutoff": 2.4,
        "normalize": "group" if kind == "group" else "order",
        "harmonics": "solid" if kind == "solid" else "surface",
        "square": square,
    }
    atoms = STRUCTURES["molecule without a cell"]
    ours = GMP(densities=DENSITIES, **options).compute(atoms)
    assert_exact(ours, brute_force(atoms, DENSITIES.gaussians, **options))


@pytest.mark.parametrize("setup", ["constant", "scale"])
@pytest.mark.parametrize("normalize", ["order", "group"])
def test_radius_of_surface_harmonics(normalize: str, setup: str) -> None:
    # Surface harmonics are those of the radius that is given, in Å or in units of sigma.
    options: dict[str, Any] = {
        "sigmas": [0.4, 1.3],
        "orders": [0, 1, 2, 3, 4, 7],
        "cutoff": 3.1,
        "normalize": normalize,
        "harmonics": "surface",
        "square": False,
        "rs": 0.7,
        "rs_setup": setup,
    }
    atoms = STRUCTURES["slab, vector along c missing"]
    ours = GMP(densities=DENSITIES, **options).compute(atoms)
    assert_exact(ours, brute_force(atoms, DENSITIES.gaussians, **options))


def test_radius_of_1_is_the_default() -> None:
    # A radius of 1 Å changes nothing, and solid harmonics have none: the same descriptors.
    options: dict[str, Any] = {"sigmas": [0.5], "orders": [2], "cutoff": 4.0}
    surface = {**options, "harmonics": "surface"}
    assert GMP(rs=1.0, rs_setup="constant", **surface) == GMP(**surface)
    assert GMP(rs=0.5, rs_setup="scale", **options) == GMP(**options)
    assert GMP(rs=1.0, rs_setup="scale", **surface) != GMP(**surface)
    assert GMP(rs=0.5, **surface) != GMP(**surface)


PER_ORDER = {
    "shared by some": {0: [0.3, 0.8, 1.3, 2.0, 3.0], 2: [0.8, 2.0], 3: [0.8]},
    "nothing shared": {0: [0.3], 2: [0.5, 0.9], 3: [1.7]},
    "in any order, vectors of both lengths": {
        3: [1.0, 0.5],
        0: [*np.linspace(2.0, 0.2, 11).tolist(), 0.5],
    },
}


@pytest.mark.parametrize("kind", ["solid", "surface", "group"])
@pytest.mark.parametrize("name", PER_ORDER)
def test_sigmas_of_each_order(name: str, kind: str) -> None:
    # Each order has its own sigmas, in the order given, whichever others are computed with them.
    sigmas = PER_ORDER[name]
    options: dict[str, Any] = {
        "cutoff": 2.9,
        "normalize": "group" if kind == "group" else "order",
        "harmonics": "solid" if kind == "solid" else "surface",
        "square": True,
    }
    atoms = STRUCTURES["skewed crystal"]
    orders = sorted(sigmas) if kind == "group" else list(sigmas)
    descriptor = GMP(sigmas, list(sigmas), densities=DENSITIES, **options)
    exact = brute_force(atoms, DENSITIES.gaussians, sigmas, orders, **options)
    assert_exact(descriptor.compute(atoms), exact)
    parts = [GMP(sigmas[order], [order], densities=DENSITIES, **options) for order in orders]
    assert descriptor.feature_names == [name for part in parts for name in part.feature_names]
    weights = np.random.default_rng(0).normal(size=exact.shape)
    columns = np.cumsum([0, *(part.num_features for part in parts)])
    pulled = [
        part.vjp(atoms, weights[:, begin:end])
        for part, begin, end in zip(parts, columns, columns[1:], strict=False)
    ]
    gradient, strain = descriptor.vjp(atoms, weights)
    for ours, theirs in ((gradient, 0), (strain, 1)):
        expected = sum(part[theirs] for part in pulled)
        np.testing.assert_allclose(ours, expected, atol=1e-12 * np.abs(expected).max())
    product = descriptor.jacobian(atoms).T @ weights.ravel()
    np.testing.assert_allclose(product, gradient.ravel(), atol=1e-12 * np.abs(gradient).max())


def test_same_sigmas_written_for_each_order() -> None:
    # Writing one list for each order is writing it once; orders without sigmas are refused.
    options: dict[str, Any] = {"cutoff": 4.0, "densities": DENSITIES}
    assert GMP({1: [0.5], 0: [0.5]}, [0, 1], **options) == GMP([0.5], [0, 1], **options)
    for wrong in ({0: [0.5]}, {0: [0.5], 1: []}, {0: [0.5], 1: [0.5], 2: [0.5]}):
        with pytest.raises(OptionError, match="sigmas"):
            GMP(wrong, [0, 1], **options)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 12, 13, 17])
def test_any_number_of_sigmas(count: int) -> None:
    # A column does not depend on which other sigmas are computed beside it.
    sigmas = np.linspace(0.02, 4.4, 17).tolist()
    atoms = STRUCTURES["skewed crystal"]
    options: dict[str, Any] = {"orders": [0, 2], "cutoff": 4.0, "densities": DENSITIES}
    every = GMP(sigmas=sigmas, **options).compute(atoms).reshape(len(atoms), 2, 17)
    some = GMP(sigmas=sigmas[-count:], **options).compute(atoms).reshape(len(atoms), 2, count)
    np.testing.assert_allclose(some, every[:, :, -count:], rtol=1e-13)


def test_columns_follow_the_order_list() -> None:
    # "order": columns in the order given; "group": ascending, whatever the order given.
    atoms = STRUCTURES["wire along b"]
    options: dict[str, Any] = {"sigmas": [0.5, 2.0], "cutoff": 4.0, "densities": DENSITIES}
    forward = GMP(orders=[0, 3], **options)
    backward = GMP(orders=[3, 0], **options)
    assert " ".join(backward.feature_names) == (
        "order3-sigma0.5 order3-sigma2.0 order0-sigma0.5 order0-sigma2.0"
    )
    swapped = forward.compute(atoms)[:, [2, 3, 0, 1]]
    np.testing.assert_array_equal(backward.compute(atoms), swapped)
    group = GMP(orders=[2, 0], normalize="group", **options)
    assert " ".join(group.feature_names[::2]) == (
        "order0-group1-sigma0.5 order2-group1-sigma0.5 order2-group2-sigma0.5"
    )
    assert group.num_features == 6


@pytest.mark.parametrize("kind", ["solid", "surface", "group"])
def test_amplitudes_that_cancel(kind: str, shared: Path) -> None:
    # AMPTorch's platinum, whose amplitudes of 2,200 are nearly each other's negative, is as exact.
    densities = read_densities(shared / "data" / "gmp_densities").subset([78])
    assert np.abs(densities.of(78)[:, 0]).max() > 2000
    options: dict[str, Any] = {
        "sigmas": [0.02, 0.4, 4.4],
        "orders": [0, 1, 2, 3],
        "cutoff": 5.0,
        "normalize": "group" if kind == "group" else "order",
        "harmonics": "solid" if kind == "solid" else "surface",
        "square": False,
    }
    atoms = Atoms("Pt3", [[0, 0, 0], [2.5, 0.3, 0], [0.4, 2.3, 1.1]], cell=[5, 0, 0], pbc=[1, 0, 0])
    ours = GMP(densities=densities, **options).compute(atoms)
    assert_exact(ours, brute_force(atoms, densities.gaussians, **options))


def test_5000_atoms() -> None:
    # The same values in a large structure: each atom's are those of the cluster around it.
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (25, 20, 10)]), -1).reshape(-1, 3)
    positions = 1.8 * grid + random.uniform(-0.3, 0.3, grid.shape)
    cell, pbc = [[45, 0, 0], [9, 36, 0], [0, 0, 18]], [True, True, False]
    atoms = Atoms(random.choice([1, 8, 78], 5000), positions, cell=cell, pbc=pbc)
    descriptor = GMP([0.5, 1.5], [0, 1, 2], 4.0, densities=DENSITIES)
    features = descriptor.compute(atoms)
    scale = np.abs(features).max(axis=0)
    for i in [0, 4999, *random.integers(0, 5000, 5)]:
        cluster = Atoms(atoms.numbers[[i]], [[0.0, 0.0, 0.0]])
        for a, b in product((-1, 0, 1), repeat=2):
            away = positions + a * np.array(cell[0]) + b * np.array(cell[1]) - positions[i]
            near = np.linalg.norm(away, axis=1) < 4.0
            near[i] &= bool(a or b)
            cluster += Atoms(atoms.numbers[near], away[near])
        assert (np.abs(features[i] - descriptor.compute(cluster)[0]) < 1e-12 * scale).all()


def test_lonely_atom() -> None:
    # With no neighbour only the atom's own density is left, and it has no moments but the even.
    atoms = Atoms("O", cell=[9, 9, 9], pbc=True)
    options: dict[str, Any] = {"sigmas": [0.02, 1.0], "orders": [0, 1, 2], "cutoff": 5.0}
    features = GMP(densities=DENSITIES, **options).compute(atoms)
    alpha = 1 / (2 * np.array([0.02, 1.0]) ** 2)
    amplitude, beta = DENSITIES.of(8).T[:, :, None]
    own = np.sum(amplitude * (alpha / (alpha + beta)) ** 1.5, axis=0)
    np.testing.assert_allclose(features[0, :2], np.abs(own), rtol=1e-13)
    np.testing.assert_array_equal(features[0, 2:], 0.0)


def test_signed_groups() -> None:
    # Without square, a group of one component keeps its sign.
    options: dict[str, Any] = {"sigmas": [0.02], "orders": [0], "cutoff": 3.0}
    negative = Densities({1: np.array([[-1.0, 2.0]])})
    atoms = Atoms("H")
    assert GMP(normalize="group", densities=negative, **options).compute(atoms)[0, 0] < 0
    assert GMP(normalize="order", densities=negative, **options).compute(atoms)[0, 0] > 0


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "no atoms"),
        (Atoms("HXe", [[0, 0, 0], [0, 0, 2]]), r"Xe \(54\)"),
        (Atoms(numbers=[0]), "no electron density"),
        (Atoms("H2", [[0, 0, 0], [0, np.nan, 1]]), "position of atom 1 is not finite"),
        (Atoms("H", cell=[np.inf, 1, 1]), "cell is not finite"),
        (Atoms("H", pbc=[True, False, False]), "periodic along a"),
        (Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True), "span no volume"),
        (Atoms("H", cell=[1e-4, 1e-4, 1e-4], pbc=True), "too many copies"),
    ],
)
def test_bad_structures(atoms: Atoms, message: str) -> None:
    # What cannot be computed is refused, with the reason.
    descriptor = GMP([1.0], [0, 1], 5.0, densities=DENSITIES)
    with pytest.raises(DataError, match=message):
        descriptor.compute(atoms)


@pytest.mark.parametrize(
    "change",
    [
        {"sigmas": []},
        {"sigmas": [0.0]},
        {"sigmas": [1.0, 1.0]},
        {"sigmas": [float("nan")]},
        {"orders": [9]},
        {"orders": [-1]},
        {"orders": [0, 0]},
        {"cutoff": 0.0},
        {"cutoff": float("inf")},
        {"normalize": "none"},
        {"harmonics": "liquid"},
        {"rs": 0.0, "harmonics": "surface"},
        {"rs_setup": "none", "harmonics": "surface"},
    ],
)
def test_bad_options(change: dict[str, Any]) -> None:
    # Parameters that make no sense are refused by name.
    options: dict[str, Any] = {"sigmas": [1.0], "orders": [0], "cutoff": 5.0, **change}
    with pytest.raises(OptionError, match=f"^{next(iter(change))}"):
        GMP(densities=DENSITIES, **options)


def test_inputs_of_any_layout() -> None:
    # Arrays as other programs leave them (read-only, transposed, int32) are read right.
    atoms = STRUCTURES["skewed crystal"]
    odd = atoms.copy()
    odd.arrays["positions"] = np.asfortranarray(atoms.positions)
    odd.arrays["numbers"] = atoms.numbers.astype(np.int32)
    odd.arrays["positions"].flags.writeable = False
    descriptor = GMP([0.5], [0, 1], 4.0, densities=DENSITIES)
    np.testing.assert_array_equal(descriptor.compute(odd), descriptor.compute(atoms))


def test_config_round_trip() -> None:
    # A descriptor rebuilt from its JSON is the same one; fewer elements, same features.
    descriptor = GMP([0.02, 0.7], [0, 3], 4.5, "group", square=True, densities=DENSITIES)
    again = GMP.from_config(json.loads(json.dumps(descriptor.config())))
    assert again == descriptor
    assert again.digest == descriptor.digest
    fewer = GMP.from_config(descriptor.config([8, 1]))
    assert fewer.densities.elements == (1, 8)
    sigmas = {0: [0.02, 0.7], 3: [0.7]}
    other = GMP(sigmas, [3, 0], 4.5, harmonics="surface", rs=0.5, rs_setup="scale")
    again = GMP.from_config(json.loads(json.dumps(other.config([1, 8]))))
    assert again.feature_names == other.feature_names
    assert again == GMP.from_config(other.config([8, 1]))
    water = STRUCTURES["molecule without a cell"]
    np.testing.assert_array_equal(fewer.compute(water), descriptor.compute(water))
    np.testing.assert_array_equal(again.compute(water), other.compute(water))


def test_old_configs_load() -> None:
    # What earlier versions wrote, without radius and switch, is read, and has the digest it had.
    densities = {"H": [[0.4, 1.7]]}
    old = {"sigmas": [0.5, 1.0], "orders": [0, 1], "cutoff": 4.0, "normalize": "order"}
    old |= {"harmonics": "surface", "square": False}
    descriptor = GMP.from_config({**old, "densities": densities})
    assert descriptor.digest == GMP.from_config(descriptor.config()).digest
    assert descriptor.digest == digest(
        {**old, "switch_width": 0.0}, Densities.from_json(densities).digest, KERNEL_VERSION
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sigmas": [0.5, 1.001]},
        {"orders": [0, 1, 2]},
        {"cutoff": 5.01},
        {"normalize": "group"},
        {"harmonics": "surface"},
        {"square": True},
        {"switch_width": 1.0},
        {"sigmas": {0: [0.5, 1.0], 1: [0.5]}},
        {"densities": DENSITIES.subset([1, 8])},
    ],
)
def test_digest(change: dict[str, Any]) -> None:
    # Whatever changes a fingerprint changes the digest.
    options: dict[str, Any] = {"sigmas": [0.5, 1.0], "orders": [0, 1], "cutoff": 5.0}
    options["densities"] = DENSITIES
    assert GMP(**options).digest == GMP(**options).digest
    assert GMP(**options).digest != GMP(**{**options, **change}).digest


def assert_exact(ours: Any, theirs: Any) -> None:
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max(axis=0)
    # Columns that vanish by symmetry are compared with the largest of all columns.
    scale = np.where(scale > 1e-12 * scale.max(), scale, scale.max())
    assert (np.abs(ours - theirs) / scale).max() < 1e-9


def test_a_batch_is_its_structures() -> None:
    # Fingerprints do not depend, by a bit, on what else is computed with them.
    structures = [
        bulk("Cu") * (1, 1, 2),
        molecule("H2O"),
        Atoms("Pt", cell=[2.5, 2.6, 2.7], pbc=True),
        fcc111("Cu", (2, 2, 2), vacuum=5.0),
    ]
    blocks = GMP({0: [0.5], 3: [1.0, 2.0]}, [0, 3], 6.0)
    for descriptor in (GMP([0.3, 1.0, 2.0], [0, 1, 2], 5.0), blocks):
        together = descriptor.compute_batch(join_atoms(structures))
        alone = np.concatenate([descriptor.compute(atoms) for atoms in structures])
        np.testing.assert_array_equal(together, alone)
