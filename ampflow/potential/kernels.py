"""The arithmetic of a training on the CPU: compiled, blocked for the cache.

Atoms are lanes. A block holds the atoms of some structures, and a row for each

    feature, one | node of layer 1, one | ... | node of the last hidden layer, one | energy

where a row of ones makes a layer's biases the last column of its weights. Blocks are small
enough to stay in the cache with all their layers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.potential.activations import activate, drop_out
from ampflow.potential.engine import BETA1, BETA2, EPSILON
from ampflow.potential.products import outer, product
from ampflow.simd import lanes

__all__ = ["DIFFERENTIATE", "LOSSES", "MEASURE", "STEP", "Block", "Part", "Rule", "Shape"]
__all__ += ["Vectors", "adam", "epoch", "gather", "layer_of", "loss_of", "losses", "padded"]
__all__ += ["standardise", "transpose"]

MEASURE, DIFFERENTIATE, STEP = range(3)
_MAE, _MSE, _HUBER = range(3)
LOSSES = {"mae": _MAE, "mse": _MSE, "huber": _HUBER}

Array = NDArray[Any]


class Shape(NamedTuple):
    """Of a network: numbers of features, hidden layers and nodes; the activation."""

    features: int
    layers: int
    nodes: int
    activation: int


class Part(NamedTuple):
    """Structures: all features of the first one, (features, atoms), then of the second one, ..."""

    features: Array  # flat
    offsets: NDArray[np.int64]  # (structures + 1,) where a structure's atoms begin
    targets: NDArray[np.float64]  # (structures,)


class Block(NamedTuple):
    """Memory for one block of atoms.

    `slopes` has a row for each hidden node: the derivative of its activation and, on the way
    back, that of the loss with respect to what went into it; and a last row for the loss's
    derivative with respect to the energy.
    """

    values: Array  # (rows as above, atoms)
    slopes: Array  # (layers nodes + 1, atoms)


class Vectors(NamedTuple):
    """Weights, their gradient, Adam's two moments, and the running average (may be empty)."""

    weights: Array
    gradient: Array
    first: Array
    second: Array
    average: Array


class Rule(NamedTuple):
    """How to learn: what to do, which loss, and the options of the step."""

    mode: int  # MEASURE errors, DIFFERENTIATE the loss (what is in `gradient` stays), or STEP
    loss: int  # of LOSSES
    delta: float  # of Huber's loss, in the unit of the targets
    dropout: float
    lr: float
    weight_decay: float
    clip: float  # 0: not
    ema_decay: float  # 0: no average
    force_weight: float


@inlined
def padded(atoms: int, step: int) -> int:
    """Return the atoms of a block, filled up to whole vectors."""
    return (atoms + step - 1) // step * step


@helper
def layer_of(shape: Shape, layer: int) -> tuple[int, int, int, int]:
    """Return a layer's first weight, its first input row, its inputs with the one, its outputs."""
    outputs = shape.nodes if layer < shape.layers else 1
    if layer == 0:
        return 0, 0, shape.features + 1, outputs
    inner = shape.nodes + 1
    weight = shape.nodes * (shape.features + 1 + (layer - 1) * inner)
    return weight, shape.features + 1 + (layer - 1) * inner, inner, outputs


@helper
def _forward(
    shape: Shape, weights: Array, block: Block, atoms: int, rate: float, key: int, first: int
) -> None:
    """Fill `values` from the features up to the energies, and `slopes` with derivatives."""
    width = padded(atoms, lanes(weights))
    for layer in range(shape.layers + 1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        matrix = weights[weight : weight + outputs * inputs].reshape(outputs, inputs)
        values = block.values[row + inputs : row + inputs + outputs]
        product(matrix, block.values[row : row + inputs], values, width, False)
        if layer == shape.layers:
            return
        slopes = block.slopes[layer * outputs : (layer + 1) * outputs]
        activate(shape.activation, values, slopes, width)
        if rate > 0:
            drop_out(rate, key + layer, first, values, slopes, width)


@helper
def _backward(shape: Shape, weights: Array, block: Block, atoms: int, gradient: Array) -> None:
    """Add to `gradient` what this block has to say, beginning at the last row of `slopes`."""
    width = padded(atoms, lanes(weights))
    for layer in range(shape.layers, -1, -1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        here = slice(weight, weight + outputs * inputs)
        slopes = block.slopes[layer * shape.nodes : layer * shape.nodes + outputs]
        out = gradient[here].reshape(outputs, inputs)
        outer(slopes, block.values[row : row + inputs], out, width)
        if layer:
            below = block.slopes[(layer - 1) * shape.nodes : layer * shape.nodes]
            product(weights[here].reshape(outputs, inputs).T, slopes, below, width, True)


@helper
def gather(
    part: Part, count: int, order: NDArray[np.int64], start: int, stop: int, values: Array
) -> tuple[int, int]:
    """Put whole structures into a block, as many as fit; return the next one, and the atoms."""
    atoms = 0
    for place in range(start, stop):
        begin, end = part.offsets[order[place]], part.offsets[order[place] + 1]
        if atoms + end - begin > values.shape[1]:
            return place, atoms
        for feature in range(count):
            source = begin * count + feature * (end - begin)
            for a in range(end - begin):
                values[feature, atoms + a] = part.features[source + a]
        atoms += end - begin
    return stop, atoms


@inlined
def loss_of(kind: int, delta: float, error: float) -> tuple[float, float]:
    """Return the loss of an error, and its derivative."""
    size, sign = abs(error), np.sign(error)
    if kind == _MAE:
        return size, sign
    if kind == _MSE:
        return error * error, 2 * error
    if size < delta:
        return error * error / 2, error
    return delta * (size - delta / 2), delta * sign


@helper
def losses(
    part: Part,
    order: NDArray[np.int64],
    start: int,
    stop: int,
    weight: float,
    rule: Rule,
    block: Block,
) -> tuple[float, float]:
    """Sum the absolute errors and the losses of a block.

    The losses' derivatives by the energies, times `weight`, go to `slopes`.
    """
    energies, slopes = block.values[-1], block.slopes[-1]
    total, loss, a = 0.0, 0.0, 0
    for place in range(start, stop):
        size = part.offsets[order[place] + 1] - part.offsets[order[place]]
        error = -part.targets[order[place]]
        for i in range(a, a + size):
            error += np.float64(energies[i])
        value, slope = loss_of(rule.loss, rule.delta, error)
        total += abs(error)
        loss += value
        slopes[a : a + size] = weight * slope
        a += size
    slopes[a:] = 0
    return total, loss


@helper
def _shortened(gradient: Array, longest: float) -> float:
    """Return what to multiply a gradient by so that it is no longer than `longest` (0: any)."""
    if longest == 0:
        return 1.0
    square = 0.0
    for i in range(len(gradient)):
        square += np.float64(gradient[i]) * np.float64(gradient[i])
    return min(1.0, longest / math.sqrt(square)) if square > 0 else 1.0


@helper
def adam(vectors: Vectors, rule: Rule, step: int) -> None:
    """Make one step of Adam, or of AdamW where weights decay, and average."""
    weights, gradient, first, second, average = vectors
    number = weights.dtype.type
    rate, larger = number(rule.lr / (1 - BETA1**step)), number(1 / math.sqrt(1 - BETA2**step))
    keep1, new1, keep2, new2 = number(BETA1), number(1 - BETA1), number(BETA2), number(1 - BETA2)
    small, kept = number(EPSILON), number(1 - rule.lr * rule.weight_decay)
    short = number(_shortened(gradient, rule.clip))
    for i in range(len(weights)):
        slope = short * gradient[i]
        first[i] = keep1 * first[i] + new1 * slope
        second[i] = keep2 * second[i] + new2 * slope * slope
        weights[i] = kept * weights[i] - rate * first[i] / (larger * np.sqrt(second[i]) + small)
    if len(average):
        old = number(min(rule.ema_decay, step / (9 + step)))
        for i in range(len(weights)):
            average[i] = old * average[i] + (number(1) - old) * weights[i]


@entry
def epoch(
    shape: Shape,
    part: Part,
    order: NDArray[np.int64],
    ends: NDArray[np.int64],
    vectors: Vectors,
    steps: int,
    rule: Rule,
    key: int,
    block: Block,
) -> tuple[float, float]:
    """Go through the structures in `order` by batches, which end at `ends`.

    `steps` were made before; nodes to drop are drawn from `key`.
    Returns the sums of absolute errors and of losses.
    """
    total, loss, seen, start = 0.0, 0.0, 0 * steps, 0 * steps  # plain 0s would compile it twice
    for stop in ends:
        if rule.mode > MEASURE:
            vectors.gradient[:] = 0
        place = start
        while place < stop:
            after, atoms = gather(part, shape.features, order, place, stop, block.values)
            _forward(shape, vectors.weights, block, atoms, rule.dropout, key, seen)
            errors, value = losses(part, order, place, after, 1 / (stop - start), rule, block)
            total, loss = total + errors, loss + value
            if rule.mode > MEASURE:
                _backward(shape, vectors.weights, block, atoms, vectors.gradient)
            place, seen = after, seen + atoms
        if rule.mode == STEP:
            steps += 1
            adam(vectors, rule, steps)
        start = stop
    return total, loss


@entry
def transpose(features: Array, offsets: NDArray[np.int64], out: Array) -> None:
    """Turn (atoms, features) into the order of `Part.features`."""
    count = features.shape[1]
    for structure in range(len(offsets) - 1):
        begin, end = offsets[structure], offsets[structure + 1]
        for a in range(begin, end):
            for feature in range(count):
                out[begin * count + feature * (end - begin) + a - begin] = features[a, feature]


@entry
def standardise(
    values: Array,
    starts: NDArray[np.int64],
    targets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    out: Array,
) -> None:
    """Put fingerprints, (atoms, features), standardised into the order of `Part.features`.

    A structure's atoms begin at `starts` in `values`, and at `targets` in `out`.
    """
    count = values.shape[1]
    for k in range(len(starts)):
        begin, first, size = targets[k] * count, starts[k], sizes[k]
        for a in range(size):
            for feature in range(count):
                number = (values[first + a, feature] - mean[feature]) / scale[feature]
                out[begin + feature * size + a] = number
