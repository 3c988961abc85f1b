from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from ampflow.errors import DataError
from ampflow.fingerprints import GMP, Densities
from ampflow.fingerprints.torch_function import gmp_fingerprints

DENSITIES = Densities(
    {
        1: np.array([[0.4, 1.7], [0.9, 11.0]]),
        8: np.array([[-16.0, 21.0], [13.0, 11.0], [4.7, 3.8], [0.4, 1.3]]),
        78: np.array([[-2181.0, 4.4845], [2205.0, 4.4840], [1.4, 1.07]]),
    }
)
CELL = np.array([[3.1, 0.0, 0.0], [-1.2, 2.9, 0.3], [0.8, -0.9, 3.6]])
NUMBERS = np.array([8, 78, 1])
POSITIONS = np.array([[0.1, 0.2, 0.3], [1.3, 0.4, 1.9], [0.2, 1.8, 4.0]])


def make(**change: Any) -> GMP:
    options: dict[str, Any] = {"sigmas": [0.3, 0.9, 1.5], "orders": [0, 1, 2], "cutoff": 3.7}
    return GMP(**{**options, "densities": DENSITIES, "switch_width": 1.0, **change})


@pytest.mark.parametrize("pbc", [True, (True, False, True), (False, True, False), False])
def test_gradcheck(pbc: Any) -> None:
    # Gradients by positions and by cell vectors are what small differences show.
    positions = torch.tensor(POSITIONS, requires_grad=True)
    cell = torch.tensor(CELL, requires_grad=True)
    descriptor = make()
    scale = torch.tensor(1 / np.abs(descriptor.compute(Atoms(NUMBERS, POSITIONS))).max(axis=0))

    def scaled(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return gmp_fingerprints(descriptor, NUMBERS, positions, cell, pbc) * scale

    assert torch.autograd.gradcheck(scaled, (positions, cell), eps=1e-5, atol=1e-6, rtol=1e-6)


def test_values_are_the_descriptors() -> None:
    # Without a cell and with tensors of numbers as well.
    found = gmp_fingerprints(make(), torch.tensor(NUMBERS), torch.tensor(POSITIONS))
    np.testing.assert_array_equal(found.numpy(), make().compute(Atoms(NUMBERS, POSITIONS)))


def test_strain() -> None:
    # A strain that stretches positions and cell gets the derivative that `vjp` gives.
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    stretch = torch.eye(3, dtype=torch.float64) + strain
    positions, cell = torch.tensor(POSITIONS) @ stretch.T, torch.tensor(CELL) @ stretch.T
    fingerprints = gmp_fingerprints(make(), NUMBERS, positions, cell, True)
    weights = torch.linspace(-1, 1, fingerprints.numel(), dtype=torch.float64)
    (fingerprints.flatten() @ weights).backward()
    atoms = Atoms(NUMBERS, POSITIONS, cell=CELL, pbc=True)
    _, expected = make().vjp(atoms, weights.reshape(fingerprints.shape).numpy())
    np.testing.assert_allclose(strain.grad, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_types_and_devices(dtype: torch.dtype, device: str) -> None:
    # What comes out, gradient included, has the type of the positions and is where they are.
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    positions = torch.tensor(POSITIONS, dtype=dtype, device=device, requires_grad=True)
    cell = torch.tensor(CELL, dtype=dtype, device=device, requires_grad=True)
    fingerprints = gmp_fingerprints(make(), NUMBERS, positions, cell, True)
    fingerprints.sum().backward()
    for tensor in (fingerprints, positions.grad, cell.grad):
        assert tensor is not None
        assert (tensor.dtype, tensor.device) == (dtype, positions.device)
    atoms = Atoms(NUMBERS, POSITIONS, cell=CELL, pbc=True)
    gradient, _ = make().vjp(atoms, np.ones(fingerprints.shape))
    assert positions.grad is not None
    allowed = 1e-4 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(
        positions.grad.cpu(), gradient, atol=allowed * np.abs(gradient).max()
    )


def test_trains_a_network() -> None:
    # A network on top gives forces, and its weights their gradient.
    torch.manual_seed(0)
    positions = torch.tensor(POSITIONS, dtype=torch.float32, requires_grad=True)
    network = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    network(gmp_fingerprints(make(), NUMBERS, positions)).sum().backward()
    assert positions.grad is not None
    assert positions.grad.abs().max() > 0
    assert all(weight.grad is not None for weight in network.parameters())


def test_no_second_derivatives() -> None:
    # Asking for a gradient of the gradient is refused, and says what to do, rather than wrong.
    positions = torch.tensor(POSITIONS, requires_grad=True)
    energy = (gmp_fingerprints(make(), NUMBERS, positions) ** 2).sum()
    (force,) = torch.autograd.grad(energy, positions, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives.*jacobian"):
        force.sum().backward()


def test_errors_are_the_descriptors() -> None:
    # An element without a density is named.
    with pytest.raises(DataError, match="Xe"):
        gmp_fingerprints(make(), [54], torch.zeros((1, 3)))
