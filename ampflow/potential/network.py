"""SingleNN: one small network for every atom, whatever its element, summed to the energy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ampflow.experiment import Training

__all__ = ["Activation", "Network", "atomic_energies"]

Activation = Literal["tanh", "silu", "gelu", "relu"]

_FUNCTIONS: dict[str, Any] = {
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}


@dataclass(frozen=True)
class Network:
    """The shape of a network. Its weights are one flat vector: layer after layer, W then b.

    Parameters
    ----------
    features, layers, nodes
        Inputs, hidden layers, and nodes in each of them.
    activation
        Applied after each hidden layer; the output layer is linear.
    """

    features: int
    layers: int
    nodes: int
    activation: Activation

    @classmethod
    def of(cls, options: Training, features: int) -> Network:
        """Return the network that the options ask for."""
        return cls(features, options.num_layers, options.num_nodes, options.activation)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each layer's weights."""
        inner = [(self.nodes, self.nodes)] * (self.layers - 1)
        return [(self.nodes, self.features), *inner, (1, self.nodes)]

    @property
    def size(self) -> int:
        """Number of weights and biases."""
        return sum(prod(shape) + shape[0] for shape in self.shapes)

    def initial(self, seed: int) -> NDArray[np.float64]:
        """Draw weights: Xavier-uniform (Glorot and Bengio 2010), biases zero.

        The output layer begins at zero, so that training sets out from the reference energies.
        """
        random = np.random.default_rng([seed, 0])
        weights = np.zeros(self.size)
        start = 0
        for outputs, inputs in self.shapes[:-1]:
            bound = np.sqrt(6 / (inputs + outputs))
            end = start + outputs * inputs
            weights[start:end] = random.uniform(-bound, bound, end - start)
            start = end + outputs
        return weights

    def split(self, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each layer's (outputs, inputs) weights and (outputs,) biases, as views."""
        start = 0
        for outputs, inputs in self.shapes:
            middle = start + outputs * inputs
            yield weights[start:middle].view(outputs, inputs), weights[middle : middle + outputs]
            start = middle + outputs


def atomic_energies(
    network: Network,
    weights: Tensor,
    features: Tensor,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the energy of each atom, in the scaler's unit: (atoms,).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    dropout
        Share of nodes set to zero after each hidden layer, drawn from `generator`.
    """
    activation = _FUNCTIONS[network.activation]
    *hidden, (last_weight, last_bias) = network.split(weights)
    value = features
    for weight, bias in hidden:
        value = activation(torch.addmm(bias, value, weight.t()))
        if dropout:
            drawn = torch.rand(value.shape, generator=generator, device=value.device)
            value = value * (drawn >= dropout).to(value.dtype) / (1 - dropout)
    return (value @ last_weight.t() + last_bias).squeeze(1)
