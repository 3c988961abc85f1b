"""The fast engine: whole epochs in compiled code, with no graph, no objects and no copies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called
from ampflow.experiment import Training
from ampflow.potential import force_kernels, kernels
from ampflow.potential.activations import ACTIVATIONS
from ampflow.potential.engine import ForceSamples, Samples
from ampflow.potential.force_kernels import Forces, Scratch
from ampflow.potential.kernels import LOSSES, Block, Part, Rule, Shape, Vectors
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
        self._delta = options.huber_delta / train.unit
        self._train, self._validation = _Part.of(train), _Part.of(validation)
        self._block = _block(self._shape, _block_length(train, validation), options.precision)
        self._scratch = _scratch(self._shape, self._block) if options.force_weight else None
        self._gradient = np.zeros(network.size, options.precision)

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """Step once a batch through the train samples in `order`."""
        memory = state.memory
        moments = memory["first"], memory["second"], memory["average"]
        vectors = Vectors(state.weights, self._gradient, *moments)
        rule, steps = self._rule(kernels.STEP, lr), state.steps
        state.steps += len(ends)
        return self._run(self._train, order, ends, vectors, steps, rule, key)[0]

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """Return mean absolute error, loss and the loss's gradient over all train samples."""
        error, loss, _ = self._all(self._train, weights, self._rule(kernels.DIFFERENTIATE), key)
        return error, loss, self._gradient.astype(np.float64)

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float]:
        """Return mean absolute errors on the validation samples, in the scaler's unit."""
        rule = self._rule(kernels.MEASURE)._replace(dropout=0.0)
        energy, _, force = self._all(self._validation, weights, rule, 0)
        return energy, force

    def _rule(self, mode: int, lr: float = 0.0) -> Rule:
        options = self._options
        decay = options.weight_decay if options.optimizer == "adamw" else 0.0
        loss, rate = LOSSES[options.loss], options.dropout_rate
        kept, weight = options.ema_decay, options.force_weight
        return Rule(mode, loss, self._delta, rate, lr, decay, options.clip, kept, weight)

    def _all(
        self, part: _Part, weights: NDArray[np.floating], rule: Rule, key: int
    ) -> tuple[float, float, float]:
        """Go through a part as one batch, without a step."""
        none, count = self._gradient, len(part.energies.targets)
        vectors = Vectors(weights, self._gradient, none, none, none)
        return self._run(part, np.arange(count), np.array([count]), vectors, 0, rule, key)

    def _run(self, part: _Part, order: NDArray[np.int64], *rest: Any) -> tuple[float, float, float]:
        """Return means of absolute errors, of the loss, and of force components' errors."""
        count, args = len(order), (self._shape, part.energies, order, *rest, self._block)
        if part.forces is None:
            total, loss = called(kernels.epoch, *args)
            return total / count, loss / count, math.nan
        total, loss, force = called(force_kernels.epoch, *args, part.forces, self._scratch)
        return total / count, loss / count, force / part.forces.targets.size


@dataclass(frozen=True)
class _Part:
    """Samples as the kernels want them."""

    energies: Part
    forces: Forces | None

    @classmethod
    def of(cls, part: Samples) -> _Part:
        features = np.empty(part.features.size, part.features.dtype)
        offsets = part.offsets.copy()  # never read-only: numba would compile for that apart
        called(kernels.transpose, part.features, offsets, features)
        energies = Part(features, offsets, part.targets)
        if part.forces is None:
            return cls(energies, None)
        return cls(energies, _forces(part.forces, part.features.dtype))


def _forces(part: ForceSamples, dtype: np.dtype[Any]) -> Forces:
    blocks, axes, features = part.derivatives.values.shape
    rows = np.zeros((axes * blocks, -(-features // 8) * 8), dtype)
    rows[:, :features] = part.derivatives.values.reshape(-1, features)
    starts, moved = part.derivatives.starts.copy(), part.derivatives.moved.copy()
    return Forces(starts, moved, rows, part.scales.astype(dtype), part.targets)


def _scratch(shape: Shape, block: Block) -> Scratch:
    rows, atoms = block.values.shape
    dtype = block.values.dtype.name
    hidden = shape.layers * shape.nodes
    return Scratch(
        _aligned(rows - 1, atoms, dtype),
        _aligned(hidden, atoms, dtype),
        _aligned(hidden + 1, atoms, dtype),
        _aligned(shape.features, atoms, dtype),
        _aligned(atoms, -(-shape.features // 8) * 8, dtype),
        np.zeros((atoms, 3)),
    )


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
