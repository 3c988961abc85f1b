from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ampflow.potential.network import Activation, Network, atomic_energies


# The flat vector is a stack of torch's own layers, each with its biases as a last column.
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
    torch.testing.assert_close(atomic_energies(network, weights, features), usual(features)[:, 0])


# Xavier: uniform within sqrt(6 / (inputs + outputs)), biases 0; the output begins at 0.
def test_initial_weights() -> None:
    network = Network(features=10, layers=2, nodes=50, activation="tanh")
    first, second, last = network.split(torch.from_numpy(network.initial(3)))
    for weight, bias in (first, second):
        bound = np.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
        assert bias.abs().max() == 0
    assert last[0].abs().max() == 0
    assert not np.array_equal(network.initial(3), network.initial(4))
    np.testing.assert_array_equal(network.initial(3), network.initial(3))
