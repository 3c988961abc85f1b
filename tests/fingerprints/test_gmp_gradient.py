from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from structures import DENSITIES, STRUCTURES

from ampflow.errors import DataError, OptionError
from ampflow.fingerprints import GMP, read_densities

CELL = np.array([[3.1, 0.0, 0.0], [-1.2, 2.9, 0.3], [0.8, -0.9, 3.6]])
KINDS: dict[str, dict[str, Any]] = {
    "solid": {},
    "solid, squares, smooth cutoff": {"square": True, "switch_width": 2.0},
    "surface, 13 sigmas": {"harmonics": "surface", "sigmas": np.linspace(0.3, 4, 13).tolist()},
    "groups": {"normalize": "group"},
    "groups, squares": {"normalize": "group", "square": True},
    "order 5": {"orders": [5], "sigmas": [0.5, 1.0]},
    "surface of a radius": {"harmonics": "surface", "rs": 0.6, "rs_setup": "scale"},
    **{
        f"orders 0 to 8, {name}{', squares' * square}": {
            "orders": range(9),
            "sigmas": [0.5, 1.4],
            "square": square,
            **kind,
        }
        for name, kind in {
            "solid": {},
            "surface": {"harmonics": "surface"},
            "groups": {"normalize": "group"},
        }.items()
        for square in (False, True)
    },
}


def make(**change: Any) -> GMP:
    options: dict[str, Any] = {"sigmas": [0.3, 0.5, 1.1, 2.0, 3.0], "orders": [0, 1, 2, 3]}
    return GMP(**{**options, "cutoff": 3.7, "densities": DENSITIES, **change})


def structure(pbc: Any) -> Atoms:
    positions = [[0.1, 0.2, 0.3], [1.3, 0.4, 1.9], [0.2, 1.8, 1.0]]
    return Atoms([8, 78, 1], positions, cell=CELL, pbc=pbc)


def weights_of(descriptor: GMP, atoms: Atoms) -> NDArray[np.float64]:
    """Random weights that make all columns count alike."""
    features = descriptor.compute(atoms)
    random = np.random.default_rng(0).normal(size=features.shape)
    return np.asarray(random / np.abs(features).max(axis=0))


@pytest.mark.parametrize("pbc", [True, False, [True, False, True]])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind: str, pbc: Any) -> None:
    # The derivative by each position is what small displacements show.
    atoms, descriptor = structure(pbc), make(**KINDS[kind])
    weights = weights_of(descriptor, atoms)
    gradient, _ = descriptor.vjp(atoms, weights)
    numerical = np.zeros_like(gradient)
    for i, k in np.ndindex(numerical.shape):
        change = np.zeros_like(gradient)
        change[i, k] = 1e-5
        ahead, behind = moved(atoms, change, np.eye(3)), moved(atoms, -change, np.eye(3))
        difference = descriptor.compute(ahead) - descriptor.compute(behind)
        numerical[i, k] = np.sum(weights * difference) / 2e-5
    np.testing.assert_allclose(gradient, numerical, atol=1e-7 * np.abs(numerical).max())
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-12 * np.abs(gradient).max())


@pytest.mark.parametrize("kind", KINDS)
def test_strain(kind: str) -> None:
    # The derivative by strain is what a slightly strained crystal shows.
    atoms, descriptor = structure(True), make(**KINDS[kind])
    weights = weights_of(descriptor, atoms)
    _, strain = descriptor.vjp(atoms, weights)
    numerical = np.zeros((3, 3))
    for k, c in np.ndindex(3, 3):
        change = np.zeros((3, 3))
        change[k, c] = 1e-5
        ahead, behind = moved(atoms, 0.0, np.eye(3) + change), moved(atoms, 0.0, np.eye(3) - change)
        difference = descriptor.compute(ahead) - descriptor.compute(behind)
        numerical[k, c] = np.sum(weights * difference) / 2e-5
    np.testing.assert_allclose(strain, numerical, atol=1e-7 * np.abs(numerical).max())


def moved(atoms: Atoms, by: Any, stretch: NDArray[np.float64]) -> Atoms:
    cell = atoms.cell.array @ stretch.T
    return Atoms(atoms.numbers, (atoms.positions + by) @ stretch.T, cell=cell, pbc=atoms.pbc)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("kind", ["solid", "surface", "group"])
def test_every_kind_of_structure(name: str, kind: str) -> None:
    # Along any displacement of atoms and strain, both derivatives are what a small step shows.
    atoms = STRUCTURES[name]
    descriptor = make(
        orders=[0, 1, 2, 4],
        normalize="group" if kind == "group" else "order",
        harmonics="solid" if kind == "solid" else "surface",
        square=True,  # roots have kinks where atoms sit on symmetric sites
        switch_width=1.0,  # atoms may be at the cutoff
    )
    random = np.random.default_rng(1)
    by, strain = random.normal(size=atoms.positions.shape), random.normal(size=(3, 3))
    origin = atoms.copy()
    origin.positions -= atoms.positions.mean(axis=0)  # a step is small far away, too
    features = descriptor.compute(origin)
    weights = random.normal(size=features.shape) / np.abs(features).max()
    gradient, pulled = descriptor.vjp(origin, weights)
    ahead, behind = (
        descriptor.compute(moved(origin, t * by, np.eye(3) + t * strain)) for t in (1e-5, -1e-5)
    )
    expected = np.sum(weights * (ahead - behind)) / 2e-5
    scale = np.abs(gradient * by).sum() + np.abs(pulled * strain).sum()
    assert np.sum(gradient * by) + np.sum(pulled * strain) == pytest.approx(
        expected, abs=1e-7 * scale
    )
    product = descriptor.jacobian(origin).T @ weights.ravel()
    np.testing.assert_allclose(product, gradient.ravel(), atol=1e-12 * scale)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fprimes_gmp_ampopt", {"orders": [0, 1, 2], "normalize": "group"}),
        ("fprimes_on_c5_sq1_solid1", {"orders": [0, 1, 2, 3], "square": True}),
    ],
)
def test_reference(name: str, options: dict[str, Any], shared: Path) -> None:
    # Derivatives of single features agree with AMPTorch's, which sets those below 1e-5 to zero.
    densities = read_densities(shared / "data" / "gmp_densities")
    sigmas = [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4]
    descriptor = GMP(sigmas=sigmas, cutoff=5.0, densities=densities, **options)
    arrays = np.load(shared / "reference" / f"{name}__water.npz")
    for positions, expected in zip(arrays["positions"], arrays["dfdr"], strict=True):
        atoms = Atoms(arrays["numbers"], positions, cell=arrays["cell"], pbc=arrays["pbc"])
        ours = descriptor.jacobian(atoms).toarray().reshape(expected.shape)
        allowed = 1e-9 * np.abs(expected).max(axis=(0, 2, 3))[:, None, None]
        kept = expected != 0
        assert kept.any()
        difference = np.abs(ours - expected)
        assert (difference <= np.where(kept, allowed, 1.01e-5)).all()


@pytest.mark.parametrize("pbc", [True, False, [True, False, True]])
@pytest.mark.parametrize("kind", KINDS)
def test_jacobian(kind: str, pbc: Any) -> None:
    # The Jacobians times weights are what `vjp` makes of them: atoms meet their own copies here,
    # which only strain moves apart.
    atoms, descriptor = structure(pbc), make(**KINDS[kind])
    weights = weights_of(descriptor, atoms)
    gradient, strain = descriptor.vjp(atoms, weights)
    jacobian, strains = descriptor.jacobians(atoms)
    assert jacobian.shape == (weights.size, gradient.size)
    assert (descriptor.jacobian(atoms) != jacobian).nnz == 0
    product = (jacobian.T @ weights.ravel()).reshape(gradient.shape)
    np.testing.assert_allclose(product, gradient, atol=1e-12 * np.abs(gradient).max())
    pulled = np.tensordot(weights, strains)
    expected = full_3x3_to_voigt_6_stress((strain + strain.T) / 2)
    np.testing.assert_allclose(pulled, expected, atol=1e-12 * np.abs(expected).max())


def test_jacobian_is_sparse() -> None:
    # Only atoms within the cutoff have entries.
    atoms = Atoms("H4", [[3.0 * k, 0, 0] for k in range(4)])
    descriptor = make()
    jacobian = descriptor.jacobian(atoms)
    assert jacobian.nnz == 3 * (2 + 3 + 3 + 2) * descriptor.num_features
    with pytest.raises(DataError, match="Xe"):
        descriptor.jacobian(Atoms("Xe"))
    with pytest.raises(DataError, match="not finite"):
        descriptor.jacobian(Atoms("H", [[np.nan, 0, 0]]))


def test_root_of_zero() -> None:
    # At the centre of symmetry a root has a kink: no NaN, and nothing beyond the slope beside it.
    atoms = Atoms("HOH", [[-1.0, 0, 0], [0, 0, 0], [1.0, 0, 0]])
    descriptor = make(orders=[1])
    gradient, strain = descriptor.vjp(atoms, np.ones((3, descriptor.num_features)))
    beside = atoms.copy()
    beside.positions[1, 0] = 0.01
    largest = np.abs(descriptor.vjp(beside, np.ones((3, descriptor.num_features)))[0]).max()
    assert np.abs(gradient).max() < 2 * largest
    assert np.isfinite(strain).all()


def test_weights_of_another_shape() -> None:
    # Weights for other features or atoms are refused.
    with pytest.raises(ValueError, match="weights"):
        make().vjp(structure(True), np.ones((3, 7)))


def test_smooth_cutoff() -> None:
    # Within the onset nothing changes; from there to the cutoff a neighbour fades away, with
    # 1 - x³ (10 - 15 x + 6 x²).
    hard, smooth = make(orders=[0]), make(orders=[0], switch_width=1.2)

    def neighbour(descriptor: GMP, distance: float) -> Any:
        pair = Atoms("HO", [[0, 0, 0], [distance, 0, 0]])
        return descriptor.compute(pair)[0] - descriptor.compute(pair[:1])[0]

    np.testing.assert_array_equal(neighbour(smooth, 2.49), neighbour(hard, 2.49))
    for x in (0.1, 0.5, 0.9):
        share = 1 - x**3 * (10 - 15 * x + 6 * x * x)
        distance = 2.5 + 1.2 * x
        np.testing.assert_allclose(
            neighbour(smooth, distance), share * neighbour(hard, distance), rtol=1e-9, atol=1e-14
        )
    assert np.abs(neighbour(hard, 3.6999999)).max() > 1e-3
    assert np.abs(neighbour(smooth, 3.6999999)).max() < 1e-15
    assert make(switch_width=1.2) != make()
    with pytest.raises(OptionError, match="switch_width"):
        make(switch_width=3.8)


@pytest.mark.parametrize("end", [2.5, 3.7])
def test_switch_has_two_continuous_derivatives(end: float) -> None:
    # Where the switch begins and where it ends neither slope nor curvature jumps.
    descriptor, step = make(orders=[0], sigmas=[1.1], switch_width=1.2), 1e-4

    def slope(distance: float) -> float:
        pair = Atoms("HO", [[0, 0, 0], [distance, 0, 0]])
        gradient, _ = descriptor.vjp(pair, np.array([[1.0], [0.0]]))
        return float(gradient[1, 0])

    def curvature(distance: float) -> float:
        return (slope(distance + step) - slope(distance - step)) / (2 * step)

    middle = (2.5 + 3.7) / 2
    assert slope(end - 1e-9) == pytest.approx(slope(end + 1e-9), abs=1e-6 * abs(slope(middle)))
    largest = max(abs(curvature(x)) for x in np.linspace(2.6, 3.6, 11))
    before, after = curvature(end - 1.01 * step), curvature(end + 1.01 * step)
    assert before == pytest.approx(after, abs=0.01 * largest)


def test_hard_cut_jumps() -> None:
    # An O-O pair that crosses 5 Å changes the widest default feature by a third; a switch holds it.
    def change(width: float) -> float:
        descriptor = GMP([4.4], [0], 5.0, switch_width=width)
        inside, outside = (
            descriptor.compute(Atoms("O2", [[0, 0, 0], [distance, 0, 0]]))[0, 0]
            for distance in (5.0 - 1e-9, 5.0)
        )
        return float(1 - outside / inside)

    assert change(0.0) == pytest.approx(0.345, abs=0.005)
    assert abs(change(1.0)) < 1e-12
