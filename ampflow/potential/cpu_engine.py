"""The fast engine: whole epochs in compiled code, with no graph, no objects and no copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called
from ampflow.experiment import Training
from ampflow.potential import kernels
from ampflow.potential.activations import ACTIVATIONS
from ampflow.potential.engine import Samples
from ampflow.potential.kernels import Adam, Block, Part, Shape
from ampflow.potential.network import Network
from ampflow.potential.state import State

__all__ = ["CpuEngine"]

_BLOCK = 432  # atoms; see _block_length


class CpuEngine:
    """Trains on one core, outside Python's lock; see `Engine` for what it promises."""

    def __init__(
        self, network: Network, train: Samples, validation: Samples, options: Training
    ) -> None:
        kind = ACTIVATIONS[network.activation]
        self._shape = Shape(network.features, network.layers, network.nodes, kind)
        self._options = options
        self._train, self._validation = _part(train), _part(validation)
        self._everything = np.arange(len(validation))
        self._block = _block(self._shape, _block_length(train, validation), options.precision)
        self._gradient = np.zeros(network.size, options.precision)

    def epoch(self, state: State, order: NDArray[np.int64], lr: float, key: int) -> float:
        """Step once a batch through the train samples in `order`."""
        batch, rate = self._options.batch_size, self._options.dropout_rate
        steps = len(state.history) * -(-len(order) // batch)
        vectors = Adam(state.weights, self._gradient, state.first, state.second)
        total = called(
            kernels.epoch,
            *(self._shape, self._train, order, batch, vectors, steps, lr, rate, key, self._block),
        )
        return float(total) / len(order)

    def error(self, weights: NDArray[np.floating]) -> float:
        """Return the mean absolute error on the validation samples, in the scaler's unit."""
        order, block = self._everything, self._block
        vectors = Adam(weights, self._gradient, self._gradient, self._gradient)
        total = called(
            kernels.epoch,
            *(self._shape, self._validation, order, len(order), vectors, 0, 0.0, 0.0, 0, block),
        )
        return float(total) / len(order)


def _part(part: Samples) -> Part:
    features = np.empty(part.features.size, part.features.dtype)
    offsets = part.offsets.copy()  # never read-only: numba would compile for that apart
    called(kernels.transpose, part.features, offsets, features)
    return Part(features, offsets, part.targets)


def _block_length(*parts: Samples) -> int:
    """Return how many atoms a block has: enough for any structure, and an odd multiple of 48.

    Whole tiles of 3 vectors and whole cache lines fit then, and rows do not all fall into the
    same few sets of the cache.
    """
    largest = max(int(np.diff(part.offsets).max()) for part in parts)
    return max(_BLOCK, 48 * (-(-largest // 48) // 2 * 2 + 1))


def _block(shape: Shape, atoms: int, precision: str) -> Block:
    rows = shape.features + 1 + shape.layers * (shape.nodes + 1) + 1
    values = _aligned(rows, atoms, precision)
    values[shape.features : -1 : shape.nodes + 1] = 1
    return Block(values, _aligned(shape.layers * shape.nodes + 1, atoms, precision))


def _aligned(rows: int, columns: int, precision: str) -> NDArray[Any]:
    """Return zeros that begin at a cache line."""
    size = rows * columns * np.dtype(precision).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(precision).reshape(rows, columns)
