"""The arithmetic of a training on the CPU: compiled, blocked for cache and registers.

Atoms are lanes. A block holds the atoms of some structures, and a row for each

    feature, one | node of layer 1, one | ... | node of the last hidden layer, one | energy

where a row of ones makes a layer's biases the last column of its weights. Blocks are small
enough to stay in the cache with all their layers. Products are made in tiles of 4 rows by 3
vectors, whose sums stay in registers; rows are padded to whole tiles, with numbers that count
for nothing.

This is one file, and a long one, because numba's cache on disk notices changes only in the file
of the function that is called (it does not notice those in `simd`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from ampflow.potential.engine import BETA1, BETA2, EPSILON
from ampflow.potential.simd import (
    drop,
    lanes,
    larger,
    load,
    mix,
    ramp,
    scale,
    smaller,
    splat,
    store,
    total,
    where_positive,
)

__all__ = ["ACTIVATIONS", "Adam", "Block", "Part", "Shape", "epoch", "transpose"]

_TANH, _SILU, _GELU, _RELU = range(4)
ACTIVATIONS = {"tanh": _TANH, "silu": _SILU, "gelu": _GELU, "relu": _RELU}

Array = NDArray[Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_compile: Any = njit  # numba's own types know nothing of the types of vectors


def _helper(function: _Function) -> _Function:
    """Compile what is called by compiled code alone."""
    compiled: _Function = _compile(error_model="numpy", nogil=True)(function)
    return compiled


def _inlined(function: _Function) -> _Function:
    """Compile into each caller."""
    compiled: _Function = _compile(error_model="numpy", nogil=True, forceinline=True)(function)
    return compiled


def _entry(function: _Function) -> _Function:
    """Compile what Python calls, outside Python's lock; keep the result on disk."""
    compiled: _Function = _compile(error_model="numpy", nogil=True, cache=True)(function)
    return compiled


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


class Adam(NamedTuple):
    """The optimiser's vectors: weights, their gradient, and Adam's two moments."""

    weights: Array
    gradient: Array
    first: Array
    second: Array


# --- Activations ------------------------------------------------------------------------------

# In float32 tanh is x P(x²) / Q(x²), of least relative error (6e-9) up to 7.9, where it is 1.
_P = np.array([0.999999994, 0.134506198, 0.00357899114, 2.20232303e-05, 1.54279517e-08], np.float32)
_Q = np.array([1.0, 0.467839478, 0.0261922346, 0.00034236491, 8.5987716e-07], np.float32)
_TOP = np.float32(7.9)

# In float64 it is 1 - 2 / (exp(2x) + 1), and exp(y) = 2^n exp(r) with |r| < ln(2) / 2 by Taylor.
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52  # adding it rounds to a whole number, which is left in the lowest bits
_TAYLOR = np.array([1 / math.factorial(i) for i in range(14)])


@_inlined
def _tanh_rational(x: Any) -> Any:
    x = larger(splat(-_TOP), smaller(splat(_TOP), x))
    s = x * x
    p = splat(_P[4]) * s + splat(_P[3])
    q = splat(_Q[4]) * s + splat(_Q[3])
    for i in range(2, -1, -1):
        p = p * s + splat(_P[i])
        q = q * s + splat(_Q[i])
    return x * p / q


@_inlined
def _tanh_exponential(x: Any) -> Any:
    y = larger(splat(-40.0), smaller(splat(40.0), x + x))
    shifted = y * splat(1 / math.log(2.0)) + splat(_ROUND)
    n = shifted - splat(_ROUND)
    r = y - n * splat(_LN2_HIGH) - n * splat(_LN2_LOW)
    e = splat(_TAYLOR[13])
    for i in range(12, -1, -1):
        e = e * r + splat(_TAYLOR[i])
    return splat(1.0) - splat(2.0) / (scale(e, shifted) + splat(1.0))


def _tanh(x: Any) -> Any:
    raise NotImplementedError


@overload(_tanh, strict=False)
def _choose_tanh(x: Any) -> Any:
    function = _tanh_rational if x.dtype is types.float32 else _tanh_exponential
    return lambda x: function(x)


@_helper
def _activate(kind: int, values: Array, slopes: Array, width: int) -> None:
    """Replace values by their activation; put its derivative into `slopes`."""
    number = values.dtype.type
    one, half = splat(number(1)), splat(number(0.5))
    for row in range(len(values)):
        for a in range(0, width, lanes(values)):
            x = load(values, row, a)
            if kind == _TANH:
                y = _tanh(x)
                slope = one - y * y
            elif kind == _SILU:
                sigmoid = half * _tanh(half * x) + half
                y = x * sigmoid
                slope = sigmoid + y * (one - sigmoid)
            else:
                y = where_positive(x, x)
                slope = where_positive(x, one)
            store(values, row, a, y)
            store(slopes, row, a, slope)


@_helper
def _gelu(values: Array, slopes: Array, width: int) -> None:
    """Do so for GELU, number by number: its error function is the C library's, and slow."""
    for row in range(len(values)):
        for a in range(width):
            x = np.float64(values[row, a])
            below = 0.5 * (1 + math.erf(x * math.sqrt(0.5)))
            values[row, a] = x * below
            slopes[row, a] = below + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@_helper
def _drop(rate: float, key: int, atom: int, values: Array, slopes: Array, width: int) -> None:
    """Set a share of the values to zero and enlarge the rest.

    Which, depends on `key`, the row, and the atom's place in the epoch (`atom` is the first's).
    """
    kept = splat(values.dtype.type(1 / (1 - rate)))
    limit = np.int64(rate * 2.0**32)
    for row in range(len(values)):
        for a in range(0, width, lanes(values)):
            drawn = mix(mix(ramp(kept, atom + a), row), key)
            store(values, row, a, drop(load(values, row, a) * kept, drawn, limit))
            store(slopes, row, a, drop(load(slopes, row, a) * kept, drawn, limit))


# --- Products ---------------------------------------------------------------------------------


@_inlined
def _tile(left: Array, r0: int, r1: int, r2: int, r3: int, right: Array, a: int) -> Any:
    """Return 4 rows by 3 vectors of `left` times `right`."""
    n = lanes(right)
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = splat(right.dtype.type(0))
    for t in range(len(right)):
        x0, x1, x2 = load(right, t, a), load(right, t, a + n), load(right, t, a + 2 * n)
        w = splat(left[r0, t])
        a0, a1, a2 = a0 + w * x0, a1 + w * x1, a2 + w * x2
        w = splat(left[r1, t])
        b0, b1, b2 = b0 + w * x0, b1 + w * x1, b2 + w * x2
        w = splat(left[r2, t])
        c0, c1, c2 = c0 + w * x0, c1 + w * x1, c2 + w * x2
        w = splat(left[r3, t])
        d0, d1, d2 = d0 + w * x0, d1 + w * x1, d2 + w * x2
    return a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2


@_helper
def _product(left: Array, right: Array, out: Array, width: int, times: bool) -> None:
    """Put `left` times `right` into `out`; if `times`, multiply what is in `out` by it."""
    last = len(out) - 1
    for r0 in range(0, len(out), 4):  # rows beyond the last are the last once more
        r1, r2, r3 = min(r0 + 1, last), min(r0 + 2, last), min(r0 + 3, last)
        for a in range(0, width, 3 * lanes(out)):
            a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2 = _tile(left, r0, r1, r2, r3, right, a)
            if times:  # all is read before any is written
                a0, a1, a2 = _times(out, r0, a, a0, a1, a2)
                b0, b1, b2 = _times(out, r1, a, b0, b1, b2)
                c0, c1, c2 = _times(out, r2, a, c0, c1, c2)
                d0, d1, d2 = _times(out, r3, a, d0, d1, d2)
            _put(out, r0, a, a0, a1, a2)
            _put(out, r1, a, b0, b1, b2)
            _put(out, r2, a, c0, c1, c2)
            _put(out, r3, a, d0, d1, d2)


@_inlined
def _times(out: Array, row: int, a: int, x0: Any, x1: Any, x2: Any) -> Any:
    n = lanes(out)
    return x0 * load(out, row, a), x1 * load(out, row, a + n), x2 * load(out, row, a + 2 * n)


@_inlined
def _put(out: Array, row: int, a: int, x0: Any, x1: Any, x2: Any) -> None:
    n = lanes(out)
    store(out, row, a, x0)
    store(out, row, a + n, x1)
    store(out, row, a + 2 * n, x2)


@_helper
def _outer(left: Array, right: Array, out: Array, width: int) -> None:
    """Add to `out` the products of each row of `left` with each of `right`."""
    rows, columns = len(left), len(right)
    for r0 in range(0, rows, 4):
        r1, r2, r3 = min(r0 + 1, rows - 1), min(r0 + 2, rows - 1), min(r0 + 3, rows - 1)
        for k0 in range(0, columns, 3):
            k1, k2 = min(k0 + 1, columns - 1), min(k0 + 2, columns - 1)
            a0 = a1 = a2 = b0 = b1 = b2 = splat(right.dtype.type(0))
            c0 = c1 = c2 = d0 = d1 = d2 = a0
            for a in range(0, width, lanes(right)):
                x0, x1, x2 = load(right, k0, a), load(right, k1, a), load(right, k2, a)
                w = load(left, r0, a)
                a0, a1, a2 = a0 + w * x0, a1 + w * x1, a2 + w * x2
                w = load(left, r1, a)
                b0, b1, b2 = b0 + w * x0, b1 + w * x1, b2 + w * x2
                w = load(left, r2, a)
                c0, c1, c2 = c0 + w * x0, c1 + w * x1, c2 + w * x2
                w = load(left, r3, a)
                d0, d1, d2 = d0 + w * x0, d1 + w * x1, d2 + w * x2
            _add(out, r0, k0, a0, a1, a2)
            _add(out, r0 + 1, k0, b0, b1, b2)
            _add(out, r0 + 2, k0, c0, c1, c2)
            _add(out, r0 + 3, k0, d0, d1, d2)


@_inlined
def _add(out: Array, row: int, column: int, x0: Any, x1: Any, x2: Any) -> None:
    if row < out.shape[0]:
        out[row, column] += total(x0)
        if column + 1 < out.shape[1]:
            out[row, column + 1] += total(x1)
        if column + 2 < out.shape[1]:
            out[row, column + 2] += total(x2)


# --- A block through the network --------------------------------------------------------------


@_inlined
def _padded(atoms: int, step: int) -> int:
    return (atoms + step - 1) // step * step


@_helper
def _layer(shape: Shape, layer: int) -> tuple[int, int, int, int]:
    """Return a layer's first weight, its first input row, its inputs with the one, its outputs."""
    outputs = shape.nodes if layer < shape.layers else 1
    if layer == 0:
        return 0, 0, shape.features + 1, outputs
    inner = shape.nodes + 1
    weight = shape.nodes * (shape.features + 1 + (layer - 1) * inner)
    return weight, shape.features + 1 + (layer - 1) * inner, inner, outputs


@_helper
def _forward(
    shape: Shape, weights: Array, block: Block, atoms: int, rate: float, key: int, first: int
) -> None:
    """Fill `values` from the features up to the energies, and `slopes` with derivatives."""
    width = _padded(atoms, lanes(weights))
    for layer in range(shape.layers + 1):
        weight, row, inputs, outputs = _layer(shape, layer)
        matrix = weights[weight : weight + outputs * inputs].reshape(outputs, inputs)
        values = block.values[row + inputs : row + inputs + outputs]
        _product(matrix, block.values[row : row + inputs], values, width, False)
        if layer == shape.layers:
            return
        slopes = block.slopes[layer * outputs : (layer + 1) * outputs]
        if shape.activation == _GELU:
            _gelu(values, slopes, width)
        else:
            _activate(shape.activation, values, slopes, width)
        if rate > 0:
            _drop(rate, key + layer, first, values, slopes, width)


@_helper
def _backward(shape: Shape, weights: Array, block: Block, atoms: int, gradient: Array) -> None:
    """Add to `gradient` what this block has to say, beginning at the last row of `slopes`."""
    width = _padded(atoms, lanes(weights))
    for layer in range(shape.layers, -1, -1):
        weight, row, inputs, outputs = _layer(shape, layer)
        here = slice(weight, weight + outputs * inputs)
        slopes = block.slopes[layer * shape.nodes : layer * shape.nodes + outputs]
        out = gradient[here].reshape(outputs, inputs)
        _outer(slopes, block.values[row : row + inputs], out, width)
        if layer:
            below = block.slopes[(layer - 1) * shape.nodes : layer * shape.nodes]
            _product(weights[here].reshape(outputs, inputs).T, slopes, below, width, True)


@_helper
def _gather(
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


@_helper
def _losses(
    part: Part, order: NDArray[np.int64], start: int, stop: int, weight: float, block: Block
) -> float:
    """Sum the absolute errors of a block; put their derivatives, times `weight`, into `slopes`."""
    energies, slopes = block.values[-1], block.slopes[-1]
    total, a = 0.0, 0
    for place in range(start, stop):
        size = part.offsets[order[place] + 1] - part.offsets[order[place]]
        error = -part.targets[order[place]]
        for i in range(a, a + size):
            error += np.float64(energies[i])
        total += abs(error)
        slopes[a : a + size] = weight * np.sign(error)
        a += size
    slopes[a:] = 0
    return total


# --- What is called ---------------------------------------------------------------------------


@_helper
def _adam(vectors: Adam, lr: float, step: int) -> None:
    weights, gradient, first, second = vectors
    number = weights.dtype.type
    rate, larger = number(lr / (1 - BETA1**step)), number(1 / math.sqrt(1 - BETA2**step))
    keep1, new1, keep2, new2 = number(BETA1), number(1 - BETA1), number(BETA2), number(1 - BETA2)
    small = number(EPSILON)
    for i in range(len(weights)):
        first[i] = keep1 * first[i] + new1 * gradient[i]
        second[i] = keep2 * second[i] + new2 * gradient[i] * gradient[i]
        weights[i] -= rate * first[i] / (larger * np.sqrt(second[i]) + small)


@_entry
def epoch(
    shape: Shape,
    part: Part,
    order: NDArray[np.int64],
    batch: int,
    vectors: Adam,
    steps: int,
    lr: float,
    rate: float,
    key: int,
    block: Block,
) -> float:
    """Step once a batch of structures through `order`; return the sum of absolute errors.

    `steps` were made before; `rate` is the share of nodes to drop, drawn from `key`. With a
    learning rate of 0 nothing is learnt, and no gradient made.
    """
    total, seen = 0.0, 0 * steps  # a plain 0 would make numba compile _forward twice
    for start in range(0, len(order), batch):
        stop = min(start + batch, len(order))
        vectors.gradient[:] = 0
        place = start
        while place < stop:
            after, atoms = _gather(part, shape.features, order, place, stop, block.values)
            _forward(shape, vectors.weights, block, atoms, rate, key, seen)
            total += _losses(part, order, place, after, 1 / (stop - start), block)
            if lr > 0:
                _backward(shape, vectors.weights, block, atoms, vectors.gradient)
            place, seen = after, seen + atoms
        if lr > 0:
            steps += 1
            _adam(vectors, lr, steps)
    return total


@_entry
def transpose(features: Array, offsets: NDArray[np.int64], out: Array) -> None:
    """Turn (atoms, features) into the order of `Part.features`."""
    count = features.shape[1]
    for structure in range(len(offsets) - 1):
        begin, end = offsets[structure], offsets[structure + 1]
        for a in range(begin, end):
            for feature in range(count):
                out[begin * count + feature * (end - begin) + a - begin] = features[a, feature]
