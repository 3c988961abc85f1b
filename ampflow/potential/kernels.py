"""The arithmetic of a training on the CPU: compiled, and done block by block; see `blocks`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.potential.activations import activate, drop_out
from ampflow.potential.blocks import Block, Part, gather, window
from ampflow.potential.engine import BETA1, BETA2, EPSILON
from ampflow.potential.products import outer, product

__all__ = ["DIFFERENTIATE", "LOSSES", "MEASURE", "STEP", "Rule", "Shape", "Vectors", "adam"]
__all__ += ["epoch", "layer_of", "loss_of", "losses", "own_weights"]

MEASURE, DIFFERENTIATE, STEP = range(3)
_MAE, _MSE, _HUBER = range(3)
LOSSES = {"mae": _MAE, "mse": _MSE, "huber": _HUBER}

Array = NDArray[Any]


class Shape(NamedTuple):
    """Of a network: numbers of features, hidden layers and nodes; the activation.

    And how many such networks there are, the weights of which follow each other.
    """

    features: int
    layers: int
    nodes: int
    activation: int
    networks: int


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
    stress_weight: float


@helper
def layer_of(shape: Shape, layer: int) -> tuple[int, int, int, int]:
    """Return a layer's first weight, its first input row, its inputs with the one, its outputs."""
    outputs = shape.nodes if layer < shape.layers else 1
    if layer == 0:
        return 0, 0, shape.features + 1, outputs
    inner = shape.nodes + 1
    weight = shape.nodes * (shape.features + 1 + (layer - 1) * inner)
    return weight, shape.features + 1 + (layer - 1) * inner, inner, outputs


@inlined
def own_weights(shape: Shape, weights: Array, network: int) -> Array:
    """Return the part of a vector as long as all weights that belongs to one network."""
    size = len(weights) // shape.networks
    return weights[network * size : (network + 1) * size]


@helper
def _forward(
    shape: Shape,
    weights: Array,
    block: Block,
    begin: int,
    end: int,
    rate: float,
    key: int,
    first: int,
) -> None:
    """Fill `values` from the features up to the energies, and `slopes` with derivatives."""
    for layer in range(shape.layers + 1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        matrix = weights[weight : weight + outputs * inputs].reshape(outputs, inputs)
        values = block.values[row + inputs : row + inputs + outputs]
        product(matrix, block.values[row : row + inputs], values, begin, end, False)
        if layer == shape.layers:
            return
        slopes = block.slopes[layer * outputs : (layer + 1) * outputs]
        activate(shape.activation, values, slopes, begin, end)
        if rate > 0:
            drop_out(rate, key + layer, first, values, slopes, begin, end)


@helper
def _backward(
    shape: Shape, weights: Array, block: Block, begin: int, end: int, gradient: Array
) -> None:
    """Add to `gradient` what this block has to say, beginning at the last row of `slopes`."""
    for layer in range(shape.layers, -1, -1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        here = slice(weight, weight + outputs * inputs)
        slopes = block.slopes[layer * shape.nodes : layer * shape.nodes + outputs]
        out = gradient[here].reshape(outputs, inputs)
        outer(slopes, block.values[row : row + inputs], out, begin, end)
        if layer:
            below = block.slopes[(layer - 1) * shape.nodes : layer * shape.nodes]
            back = weights[here].reshape(outputs, inputs).T
            product(back, slopes, below, begin, end, True)


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
    slopes[:] = 0
    total, loss, k = 0.0, 0.0, 0
    for place in range(start, stop):
        first, last = part.runs[order[place]], part.runs[order[place] + 1]
        error = -part.targets[order[place]]
        for run in range(first, last):
            column = block.columns[k + run - first]
            for i in range(column, column + part.starts[run + 1] - part.starts[run]):
                error += np.float64(energies[i])
        value, slope = loss_of(rule.loss, rule.delta, error)
        total += abs(error)
        loss += value
        for run in range(first, last):
            column = block.columns[k + run - first]
            slopes[column : column + part.starts[run + 1] - part.starts[run]] = weight * slope
        k += last - first
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
            after, columns = gather(part, shape.features, order, place, stop, block)
            for network in range(shape.networks):
                begin, end = window(block, network)
                own = own_weights(shape, vectors.weights, network)
                _forward(shape, own, block, begin, end, rule.dropout, key, seen)
            errors, value = losses(part, order, place, after, 1 / (stop - start), rule, block)
            total, loss = total + errors, loss + value
            for network in range(shape.networks):
                begin, end = window(block, network)
                if rule.mode > MEASURE and begin < end:
                    own = own_weights(shape, vectors.weights, network)
                    out = own_weights(shape, vectors.gradient, network)
                    _backward(shape, own, block, begin, end, out)
            place, seen = after, seen + columns
        if rule.mode == STEP:
            steps += 1
            adam(vectors, rule, steps)
        start = stop
    return total, loss
