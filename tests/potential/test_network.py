from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ampflow.potential import torch_engine
from ampflow.potential.network import Activation, Network, atomic_energies, atomic_slopes


# The flat vector is a stack of torch's own layers, each with its biases as a last column; numpy
# and torch make the same energies of it.
@pytest.mark.parametrize(
    ("activation", "module"),
    [
        ("tanh", torch.nn.Tanh()),
        ("silu", torch.nn.SiLU()),
        ("gelu", torch.nn.GELU()),
        ("relu", torch.nn.ReLU()),
    ],
)
def test_is_the_usual_network(activation: Activation, module: torch.nn.Module) -> None:
    network = Network(features=4, layers=3, nodes=6, activation=activation)
    sizes = [4, 6, 6, 6]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), module]
    usual = torch.nn.Sequential(*layers, torch.nn.Linear(6, 1)).double()
    own = [layer for layer in usual if isinstance(layer, torch.nn.Linear)]
    weights = torch.cat([torch.column_stack([layer.weight, layer.bias]).ravel() for layer in own])
    features = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert network.size == len(weights)
    expected = usual(features)[:, 0].detach()
    torch.testing.assert_close(torch_engine.atomic_energies(network, weights, features), expected)
    ours = atomic_energies(
        network, weights.detach().numpy(), features.numpy(), np.ones(7, np.int64)
    )
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-12)


# Xavier: uniform within sqrt(6 / (inputs + outputs)), biases 0; the output begins at 0.
def test_initial_weights() -> None:
    network = Network(features=10, layers=2, nodes=50, activation="tanh")
    first, second, last = network.matrices(network.initial(3))
    for matrix in (first, second):
        bound = np.sqrt(6 / (matrix.shape[0] + matrix.shape[1] - 1))
        assert 0.95 * bound < np.abs(matrix).max() <= bound
        assert np.abs(matrix[:, -1]).max() == 0
    assert np.abs(last).max() == 0
    assert not np.array_equal(network.initial(3), network.initial(4))
    np.testing.assert_array_equal(network.initial(3), network.initial(3))


# The slopes are the derivative of the energies, by autograd, for every activation.
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
def test_slopes(activation: Activation) -> None:
    network = Network(features=4, layers=3, nodes=6, activation=activation)
    weights = np.random.default_rng(0).normal(0, 0.5, network.size)
    features = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    energies = torch_engine.atomic_energies(
        network, torch.from_numpy(weights), features.requires_grad_()
    )
    (expected,) = torch.autograd.grad(energies.sum(), features)
    found = atomic_slopes(network, weights, features.detach().numpy(), np.ones(7, np.int64))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10, atol=1e-12)
