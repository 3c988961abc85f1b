"""Small networks for atoms, summed to the energy: one for all (SingleNN), or one an element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    The last column of each matrix is the layer's biases. Networks of several elements follow each
    other in that vector, all of one shape.

    Parameters
    ----------
    features, layers, nodes
        Inputs, hidden layers, and nodes in each of them.
    activation
        Applied after each hidden layer; the output layer is linear.
    elements
        Atomic numbers, ascending, of elements that have a network of their own; empty: one
        network serves all atoms.

    Notes
    -----
    One network: Liu and Kitchin, J. Phys. Chem. C 124, 17811 (2020). One an element: Behler and
    Parrinello, Phys. Rev. Lett. 98, 146401 (2007).
    """

    features: int
    layers: int
    nodes: int
    activation: Activation
    elements: tuple[int, ...] = ()

    @classmethod
    def of(cls, options: Training, features: int, elements: NDArray[np.int64]) -> Network:
        """Return the network that the options ask for, for data with these elements."""
        own = tuple(elements.tolist()) if options.network == "per-element" else ()
        return cls(features, options.num_layers, options.num_nodes, options.activation, own)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs + 1) of each layer's matrix."""
        inner = [(self.nodes, self.nodes + 1)] * (self.layers - 1)
        return [(self.nodes, self.features + 1), *inner, (1, self.nodes + 1)]

    @property
    def count(self) -> int:
        """How many networks there are."""
        return max(1, len(self.elements))

    @property
    def size(self) -> int:
        """Number of weights and biases, all networks together."""
        return self.count * sum(prod(shape) for shape in self.shapes)

    def initial(self, seed: int) -> NDArray[np.float64]:
        """Draw weights: Xavier-uniform (Glorot and Bengio 2010), biases zero.

        The output layer begins at zero, so that training sets out from the reference energies.
        """
        random = np.random.default_rng([seed, 0])
        return np.concatenate([self._initial(random) for _ in range(self.count)])

    def _initial(self, random: np.random.Generator) -> NDArray[np.float64]:
        layers = [np.zeros(shape) for shape in self.shapes]
        for layer in layers[:-1]:
            outputs, inputs = layer.shape[0], layer.shape[1] - 1
            bound = np.sqrt(6 / (inputs + outputs))
            layer[:, :-1] = random.uniform(-bound, bound, (outputs, inputs))
        return np.concatenate([layer.ravel() for layer in layers])

    def which(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the place in `elements` of each atom's network: (atoms,), 0 for a single one.

        Parameters
        ----------
        numbers
            (atoms,) atomic numbers, each of `elements`.
        """
        if not self.elements:
            return np.zeros(len(numbers), np.int64)
        return np.searchsorted(np.array(self.elements), numbers).astype(np.int64)

    def divide(self, weights: Any, numbers: NDArray[np.integer]) -> Iterator[tuple[Any, Any]]:
        """Yield the weights of each network, and an index of the atoms that it is for.

        Parameters
        ----------
        weights
            (size,) an array or a torch tensor.
        numbers
            (atoms,) atomic numbers, each of `elements`.
        """
        if not self.elements:
            yield weights, slice(None)
            return
        size = self.size // self.count
        for place, element in enumerate(self.elements):
            yield weights[place * size : (place + 1) * size], np.flatnonzero(numbers == element)

    def matrices(self, weights: Any) -> list[Any]:
        """Return each layer's matrix as a view of one network's weights, an array or a tensor."""
        ends = accumulate(prod(shape) for shape in self.shapes)
        return [
            weights[end - prod(shape) : end].reshape(shape)
            for shape, end in zip(self.shapes, ends, strict=True)
        ]


def atomic_energies(
    network: Network,
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    numbers: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Return the energy of each atom, in the scaler's unit: (atoms,).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    numbers
        (atoms,) atomic numbers, each of the network's elements if it has any.
    """
    activation = _FUNCTIONS[network.activation]
    energies = np.empty(len(features))
    for own, atoms in network.divide(weights, numbers):
        *hidden, last = network.matrices(own)
        value = features[atoms]
        for matrix in hidden:
            value = activation(value @ matrix[:, :-1].T + matrix[:, -1])
        energies[atoms] = (value @ last[:, :-1].T + last[:, -1])[:, 0]
    return energies


def atomic_slopes(
    network: Network,
    weights: NDArray[np.float64],
    features: NDArray[np.float64],
    numbers: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Return the derivative of each atom's energy by its features: (atoms, features).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    numbers
        (atoms,) atomic numbers, each of the network's elements if it has any.
    """
    slopes = np.empty(features.shape)
    for own, atoms in network.divide(weights, numbers):
        slopes[atoms] = _slopes(network, own, features[atoms])
    return slopes


def _slopes(
    network: Network, weights: NDArray[np.float64], features: NDArray[np.float64]
) -> NDArray[np.float64]:
    *hidden, last = network.matrices(weights)
    inputs, value = [], features
    for matrix in hidden:
        inputs.append(value @ matrix[:, :-1].T + matrix[:, -1])
        value = _FUNCTIONS[network.activation](inputs[-1])
    slopes = np.broadcast_to(last[:, :-1], value.shape)
    for matrix, summed in zip(reversed(hidden), reversed(inputs), strict=True):
        slopes = (slopes * _SLOPES[network.activation](summed)) @ matrix[:, :-1]
    return slopes
