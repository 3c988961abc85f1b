"""SingleNN: one small network for every atom, whatever its element, summed to the energy."""

from __future__ import annotations

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
    """The shape of a network. Its weights are one flat vector: a matrix a layer.

    The last column of each matrix is the layer's biases.

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
        """(outputs, inputs + 1) of each layer's matrix."""
        inner = [(self.nodes, self.nodes + 1)] * (self.layers - 1)
        return [(self.nodes, self.features + 1), *inner, (1, self.nodes + 1)]

    @property
    def size(self) -> int:
        """Number of weights and biases."""
        return sum(prod(shape) for shape in self.shapes)

    def initial(self, seed: int) -> NDArray[np.float64]:
        """Draw weights: Xavier-uniform (Glorot and Bengio 2010), biases zero.

        The output layer begins at zero, so that training sets out from the reference energies.
        """
        random = np.random.default_rng([seed, 0])
        layers = [np.zeros(shape) for shape in self.shapes]
        for layer in layers[:-1]:
            outputs, inputs = layer.shape[0], layer.shape[1] - 1
            bound = np.sqrt(6 / (inputs + outputs))
            layer[:, :-1] = random.uniform(-bound, bound, (outputs, inputs))
        return np.concatenate([layer.ravel() for layer in layers])

    def split(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's (outputs, inputs) weights and (outputs,) biases, as views."""
        parts = torch.split(weights, [prod(shape) for shape in self.shapes])
        layers = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [(layer[:, :-1], layer[:, -1]) for layer in layers]


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
