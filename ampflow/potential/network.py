"""SingleNN: one small network for every atom, whatever its element, summed to the energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from ampflow.experiment import Training

__all__ = ["Activation", "Network", "atomic_energies", "atomic_slopes"]

Activation = Literal["tanh", "silu", "gelu", "relu"]

_FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "tanh": np.tanh,
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: x * ndtr(x),
    "relu": lambda x: np.maximum(x, 0.0),
}


def _silu_slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    gate = expit(x)
    slope: NDArray[np.float64] = gate * (1 + x * (1 - gate))
    return slope


_SLOPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "silu": _silu_slope,
    "gelu": lambda x: ndtr(x) + x * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi),
    "relu": lambda x: (x > 0).astype(np.float64),
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

    def matrices(self, weights: Any) -> list[Any]:
        """Return each layer's matrix as a view of `weights`, an array or a torch tensor."""
        ends = accumulate(prod(shape) for shape in self.shapes)
        return [
            weights[end - prod(shape) : end].reshape(shape)
            for shape, end in zip(self.shapes, ends, strict=True)
        ]


def atomic_energies(
    network: Network, weights: NDArray[np.float64], features: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the energy of each atom, in the scaler's unit: (atoms,).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    """
    activation = _FUNCTIONS[network.activation]
    *hidden, last = network.matrices(weights)
    value = features
    for matrix in hidden:
        value = activation(value @ matrix[:, :-1].T + matrix[:, -1])
    energies: NDArray[np.float64] = (value @ last[:, :-1].T + last[:, -1])[:, 0]
    return energies


def atomic_slopes(
    network: Network, weights: NDArray[np.float64], features: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the derivative of each atom's energy by its features: (atoms, features).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    """
    *hidden, last = network.matrices(weights)
    inputs, value = [], features
    for matrix in hidden:
        inputs.append(value @ matrix[:, :-1].T + matrix[:, -1])
        value = _FUNCTIONS[network.activation](inputs[-1])
    slopes = np.broadcast_to(last[:, :-1], value.shape)
    for matrix, summed in zip(reversed(hidden), reversed(inputs), strict=True):
        slopes = (slopes * _SLOPES[network.activation](summed)) @ matrix[:, :-1]
    return slopes
