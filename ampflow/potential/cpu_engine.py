"""The fast engine: whole epochs in compiled code, with no graph, no objects and no copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called
from ampflow.experiment import Training
from ampflow.potential import force_kernels, kernels
from ampflow.potential.activations import ACTIVATIONS
from ampflow.potential.blocks import Block, Part
from ampflow.potential.engine import Samples, StreamedSamples
from ampflow.potential.force_kernels import Forces, Scratch
from ampflow.potential.kernels import LOSSES, Rule, Shape, Vectors
from ampflow.potential.network import Network
from ampflow.potential.runs import most_columns
from ampflow.potential.state import State
from ampflow.potential.streaming import Source, source

__all__ = ["CpuEngine"]

Array = NDArray[Any]
_BLOCK = 432  # atoms; see _block_length


class CpuEngine:
    """Trains on one core, outside Python's lock; see `Engine` for what it promises."""

    def __init__(
        self,
        network: Network,
        train: Samples | StreamedSamples,
        validation: Samples | StreamedSamples,
        options: Training,
    ) -> None:
        kind = ACTIVATIONS[network.activation]
        shape = (network.features, network.layers, network.nodes, kind, network.count)
        self._shape = Shape(*shape)
        self._options = options
        self._delta = options.huber_delta / train.unit
        self._train, self._validation = source(train, network), source(validation, network)
        columns = _block_length(network, train, validation)
        self._block = _block(self._shape, columns, options.precision)
        forces = self._train.forces
        self._scratch = _scratch(self._shape, self._block, forces.extra) if forces else None
        self._gradient = np.zeros(network.size, options.precision)

    def expect(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """Read ahead what the next calls of `epoch` go through."""
        self._train.expect(orders)

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """Step once a batch through the train samples in `order`."""
        memory = state.memory
        moments = memory["first"], memory["second"], memory["average"]
        vectors = Vectors(state.weights, self._gradient, *moments)
        rule, steps = self._rule(kernels.STEP, lr), state.steps
        part, places = self._train.at(order)
        found = self._run(part, self._train.forces, places, ends, vectors, steps, rule, key)
        state.steps += len(ends)
        return found[0] / len(order)

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """Return mean absolute error, loss and the loss's gradient over all train samples."""
        rule, mean = self._rule(kernels.DIFFERENTIATE), np.zeros(len(weights))
        error, loss, *_ = self._all(self._train, weights, rule, key, mean)
        return error / len(self._train), loss / len(self._train), mean

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float, float]:
        """Return mean absolute errors on the validation samples, in the scaler's unit."""
        rule = self._rule(kernels.MEASURE)._replace(dropout=0.0)
        sums, options = self._all(self._validation, weights, rule, 0, np.zeros(0)), self._options
        count, atoms = len(self._validation), self._validation.atoms
        return (
            sums[0] / count,
            sums[2] / (3 * atoms) if options.force_weight else math.nan,
            sums[3] / (6 * count) if options.stress_weight else math.nan,
        )

    def _rule(self, mode: int, lr: float = 0.0) -> Rule:
        options = self._options
        decay = options.weight_decay if options.optimizer == "adamw" else 0.0
        loss, rate = LOSSES[options.loss], options.dropout_rate
        weights = options.force_weight, options.stress_weight
        kept = options.ema_decay
        return Rule(mode, loss, self._delta, rate, lr, decay, options.clip, kept, *weights)

    def _all(
        self, part: Source, weights: NDArray[np.floating], rule: Rule, key: int, mean: Array
    ) -> tuple[float, float, float, float]:
        """Go through a part without a step, a window a batch, and return sums as `_run` does.

        The gradient's mean over structures goes to `mean`.
        """
        none = self._gradient
        vectors = Vectors(weights, self._gradient, none, none, none)
        total, seen = np.zeros(4), 0
        for number, (held, order) in enumerate(part.all()):
            count = len(order)
            # Other nodes are dropped in each window; a layer adds its number to the key.
            args = order, np.array([count]), vectors, 0, rule, (key + 64 * number) % 2**63
            total += self._run(held, part.forces, *args)
            seen += count
            if len(mean):
                mean += (count / seen) * (self._gradient - mean)
        energies, loss, forces, stresses = total.tolist()
        return energies, loss, forces, stresses

    def _run(
        self, part: Part, forces: Forces | None, *rest: Any
    ) -> tuple[float, float, float, float]:
        """Return sums of absolute errors, the loss, and force and stress components' errors."""
        args = (self._shape, part, *rest, self._block)
        if forces is None:
            return (*called(kernels.epoch, *args), 0.0, 0.0)
        return called(force_kernels.epoch, *args, forces, self._scratch)  # type: ignore[no-any-return]


def _scratch(shape: Shape, block: Block, extra: int) -> Scratch:
    """Make room for a block of any structures, which may be single atoms."""
    rows, atoms = block.values.shape
    dtype = block.values.dtype.name
    hidden = shape.layers * shape.nodes
    return Scratch(
        _aligned(rows - 1, atoms, dtype),
        _aligned(hidden, atoms, dtype),
        _aligned(hidden + 1, atoms, dtype),
        _aligned(shape.features, atoms, dtype),
        _aligned(atoms, -(-shape.features // 8) * 8, dtype),
        np.zeros(((1 + extra) * atoms, 3)),
    )


def _block_length(network: Network, *parts: Samples | StreamedSamples) -> int:
    """Return how many columns a block has: enough for any structure, and an odd multiple of 48.

    Whole tiles of 3 vectors and whole cache lines fit then, and rows do not all fall into the
    same few sets of the cache.
    """
    largest = max(most_columns(part.offsets, part.numbers, network) for part in parts)
    return max(_BLOCK, 48 * (-(-largest // 48) // 2 * 2 + 1))


def _block(shape: Shape, atoms: int, precision: str) -> Block:
    rows = shape.features + 1 + shape.layers * (shape.nodes + 1) + 1
    values = _aligned(rows, atoms, precision)
    values[shape.features : -1 : shape.nodes + 1] = 1
    slopes = _aligned(shape.layers * shape.nodes + 1, atoms, precision)
    begins, ends = np.zeros((2, shape.networks), np.int64)
    return Block(values, slopes, begins, ends, np.zeros(atoms, np.int64))


def _aligned(rows: int, columns: int, precision: str) -> NDArray[Any]:
    """Return zeros that begin at a cache line."""
    size = rows * columns * np.dtype(precision).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(precision).reshape(rows, columns)
