"""The arithmetic of a training on energies, forces and stresses, compiled.

With g = dE/dx, the derivative of a structure's energy by its standardised features, forces are
F = -Jᵀ g, where J holds the features' derivatives by the positions. A loss L(F) has

    dL/dweights = d/dweights Σ v g,   v = -J dL/dF   (v held constant)

and Σ v g is the derivative of the energy along v. So the features' tangents v go forward through
the layers beside the features, and the reverse runs over both: no graph, and no second derivative
but the activation's.

A stress is two more rows of forces, on which the strain's derivatives act like those by positions;
see `ampflow.dataset.Derivatives`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.potential.activations import activate, bend, drop_out
from ampflow.potential.blocks import Block, Part, gather, padded, window
from ampflow.potential.kernels import (
    MEASURE,
    STEP,
    Rule,
    Shape,
    Vectors,
    adam,
    layer_of,
    loss_of,
    losses,
    own_weights,
)
from ampflow.potential.products import outer, product
from ampflow.simd import lanes, load_row, splat, store_row, total

__all__ = ["Forces", "Scratch", "epoch"]

Array = NDArray[Any]


class Forces(NamedTuple):
    """What forces need of a part, in the order of its atoms; see `ampflow.dataset.Derivatives`."""

    starts: NDArray[np.int64]  # (atoms + 1,) where an atom's dependences begin
    moved: NDArray[np.int64]  # (dependences,) the atom that moves, counted within the structure
    derivatives: Array  # (3 dependences, features filled up to whole vectors)
    scales: Array  # (features,) of the scaler
    targets: NDArray[np.float64]  # (rows, 3): a structure's atoms, then its strain
    extra: int  # rows of a structure's strain: 2 or 0


class Scratch(NamedTuple):
    """Memory for one block of atoms, beside `Block`.

    `curves` begins as the activations' second derivatives; `seconds` is the derivative of the
    energies with respect to what went into each node.
    """

    tangents: Array  # (rows as in Block.values, atoms); rows of ones are zeros here
    curves: Array  # (layers nodes, atoms)
    seconds: Array  # (layers nodes + 1, atoms)
    inputs: Array  # (features, atoms) dE/dx
    by_atom: Array  # (atoms, features filled up)
    forces: NDArray[np.float64]  # (rows, 3), then the loss's derivative by them


@helper
def _forward(
    shape: Shape,
    weights: Array,
    block: Block,
    scratch: Scratch,
    begin: int,
    end: int,
    rate: float,
    key: int,
    first: int,
) -> None:
    """Fill `values`, `slopes` and `curves` from the features up to the energies."""
    for layer in range(shape.layers + 1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        matrix = weights[weight : weight + outputs * inputs].reshape(outputs, inputs)
        values = block.values[row + inputs : row + inputs + outputs]
        product(matrix, block.values[row : row + inputs], values, begin, end, False)
        if layer == shape.layers:
            return
        rows = slice(layer * outputs, (layer + 1) * outputs)
        slopes, curves, seconds = block.slopes[rows], scratch.curves[rows], scratch.seconds[rows]
        bend(shape.activation, values, curves, begin, end)
        activate(shape.activation, values, slopes, begin, end)
        seconds[:, begin:end] = slopes[:, begin:end]
        if rate > 0:  # the same nodes are dropped in all four
            drop_out(rate, key + layer, first, values, slopes, begin, end)
            drop_out(rate, key + layer, first, curves, seconds, begin, end)


@helper
def _differentiate(shape: Shape, weights: Array, scratch: Scratch, begin: int, last: int) -> None:
    """Fill `seconds` and `inputs`; multiply `curves` by the derivatives by the nodes.

    `last` is the column after the last atom.
    """
    end = begin + padded(last - begin, lanes(weights))
    scratch.seconds[-1, begin:last] = 1
    scratch.seconds[-1, last:end] = 0
    for layer in range(shape.layers, -1, -1):
        weight, _, inputs, outputs = layer_of(shape, layer)
        back = weights[weight : weight + outputs * inputs].reshape(outputs, inputs).T
        above = scratch.seconds[layer * shape.nodes : layer * shape.nodes + outputs]
        if layer == 0:
            product(back, above, scratch.inputs, begin, end, False)
            return
        below = slice((layer - 1) * shape.nodes, layer * shape.nodes)
        product(back, above, scratch.curves[below], begin, end, True)
        product(back, above, scratch.seconds[below], begin, end, True)


@inlined
def _dot(left: Array, row: int, right: Array, other: int) -> Any:
    result = splat(left.dtype.type(0))
    for f in range(0, left.shape[1], lanes(left)):
        result = result + load_row(left, row, f) * load_row(right, other, f)
    return total(result)


@inlined
def _add_times(out: Array, row: int, factor: Any, rows: Array, other: int) -> None:
    by = splat(factor)
    for f in range(0, out.shape[1], lanes(out)):
        store_row(out, row, f, load_row(out, row, f) + by * load_row(rows, other, f))


@helper
def _pull(
    shape: Shape,
    part: Part,
    given: Forces,
    order: NDArray[np.int64],
    start: int,
    stop: int,
    block: Block,
    scratch: Scratch,
) -> None:
    """Make forces of `inputs`; they are in the order of the structures' atoms, not of columns."""
    by_atom, forces, a, r = scratch.by_atom, scratch.forces, 0, 0
    for place in range(start, stop):
        first, last = part.runs[order[place]], part.runs[order[place] + 1]
        size = part.starts[last] - part.starts[first] + given.extra
        forces[a : a + size] = 0
        for run in range(first, last):
            for atom in range(part.starts[run], part.starts[run + 1]):
                here = block.columns[r] + atom - part.starts[run]
                for f in range(shape.features):
                    by_atom[here, f] = scratch.inputs[f, here] / given.scales[f]
                for dependence in range(given.starts[atom], given.starts[atom + 1]):
                    moved = a + given.moved[dependence]
                    for k in range(3):
                        slope = _dot(given.derivatives, 3 * dependence + k, by_atom, here)
                        forces[moved, k] -= np.float64(slope)
            r += 1
        a += size


@helper
def _force_losses(
    part: Part,
    given: Forces,
    order: NDArray[np.int64],
    start: int,
    stop: int,
    weight: float,
    rule: Rule,
    forces: NDArray[np.float64],
) -> tuple[float, float, float]:
    """Sum absolute errors of forces and of stresses, by component, and their weighted losses.

    A structure's loss is the mean over its components. Forces and stresses are replaced by the
    losses' derivatives by them, times `weight`.
    """
    force_errors, stress_errors, loss, row = 0.0, 0.0, 0.0, 0
    for place in range(start, stop):
        begin = part.starts[part.runs[order[place]]]
        size = part.starts[part.runs[order[place] + 1]] - begin
        target = begin + given.extra * order[place]
        share = rule.force_weight / (3 * size)
        for i in range(size):
            errors, value = _compare(given, target + i, forces, row + i, share, weight, rule)
            force_errors, loss = force_errors + errors, loss + value
        share = rule.stress_weight / 6
        for i in range(size, size + given.extra):
            errors, value = _compare(given, target + i, forces, row + i, share, weight, rule)
            stress_errors, loss = stress_errors + errors, loss + value
        row += size + given.extra
    return force_errors, stress_errors, loss


@inlined
def _compare(
    given: Forces,
    target: int,
    forces: NDArray[np.float64],
    row: int,
    share: float,
    weight: float,
    rule: Rule,
) -> tuple[float, float]:
    """Return the sum of a row's absolute errors and its loss; see `_force_losses`."""
    errors, loss = 0.0, 0.0
    for k in range(3):
        error = forces[row, k] - given.targets[target, k]
        value, slope = loss_of(rule.loss, rule.delta, error)
        errors += abs(error)
        loss += share * value
        forces[row, k] = weight * share * slope
    return errors, loss


@helper
def _push(
    shape: Shape,
    part: Part,
    given: Forces,
    order: NDArray[np.int64],
    start: int,
    stop: int,
    block: Block,
    scratch: Scratch,
) -> None:
    """Make the features' tangents of the losses' derivatives by the forces."""
    by_atom, forces, a, r = scratch.by_atom, scratch.forces, 0, 0
    number = by_atom.dtype.type
    scratch.tangents[: shape.features] = 0
    for place in range(start, stop):
        first, last = part.runs[order[place]], part.runs[order[place] + 1]
        for run in range(first, last):
            for atom in range(part.starts[run], part.starts[run + 1]):
                here = block.columns[r] + atom - part.starts[run]
                by_atom[here] = 0
                for dependence in range(given.starts[atom], given.starts[atom + 1]):
                    moved = a + given.moved[dependence]
                    for k in range(3):
                        factor = number(-forces[moved, k])
                        _add_times(by_atom, here, factor, given.derivatives, 3 * dependence + k)
                for f in range(shape.features):
                    scratch.tangents[f, here] = by_atom[here, f] / given.scales[f]
            r += 1
        a += part.starts[last] - part.starts[first] + given.extra


@helper
def _backward(
    shape: Shape,
    weights: Array,
    block: Block,
    scratch: Scratch,
    begin: int,
    end: int,
    gradient: Array,
) -> None:
    """Add to `gradient`, from energies (the last row of `slopes`) and tangents."""
    for layer in range(shape.layers):
        weight, row, inputs, outputs = layer_of(shape, layer)
        matrix = weights[weight : weight + outputs * inputs].reshape(outputs, inputs)
        rows = slice(layer * outputs, (layer + 1) * outputs)
        tangents = scratch.tangents[row + inputs : row + inputs + outputs]
        product(matrix, scratch.tangents[row : row + inputs], tangents, begin, end, False)
        scratch.curves[rows, begin:end] *= tangents[:, begin:end]
        tangents[:, begin:end] *= block.slopes[rows, begin:end]
    for layer in range(shape.layers, -1, -1):
        weight, row, inputs, outputs = layer_of(shape, layer)
        here = slice(weight, weight + outputs * inputs)
        rows = slice(layer * shape.nodes, layer * shape.nodes + outputs)
        out = gradient[here].reshape(outputs, inputs)
        outer(block.slopes[rows], block.values[row : row + inputs], out, begin, end)
        outer(scratch.seconds[rows], scratch.tangents[row : row + inputs], out, begin, end)
        if layer:
            below = slice((layer - 1) * shape.nodes, layer * shape.nodes)
            back = weights[here].reshape(outputs, inputs).T
            product(back, block.slopes[rows], block.slopes[below], begin, end, True)
            block.slopes[below, begin:end] += scratch.curves[below, begin:end]


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
    given: Forces,
    scratch: Scratch,
) -> tuple[float, float, float, float]:
    """Do what `kernels.epoch` does, with the losses of forces and stresses added.

    Returns the sums of absolute errors of energies, of losses, and of absolute errors of force
    and of stress components.
    """
    energies, loss, seen, start = 0.0, 0.0, 0 * steps, 0 * steps
    forces, stresses = 0.0, 0.0
    for stop in ends:
        if rule.mode > MEASURE:
            vectors.gradient[:] = 0
        place = start
        while place < stop:
            after, columns = gather(part, shape.features, order, place, stop, block)
            for network in range(shape.networks):
                begin, end = window(block, network)
                own = own_weights(shape, vectors.weights, network)
                _forward(shape, own, block, scratch, begin, end, rule.dropout, key, seen)
            share = 1 / (stop - start)
            errors, value = losses(part, order, place, after, share, rule, block)
            energies, loss = energies + errors, loss + value
            for network in range(shape.networks):
                own = own_weights(shape, vectors.weights, network)
                begin, last = block.begins[network], block.ends[network]
                _differentiate(shape, own, scratch, begin, last)
            _pull(shape, part, given, order, place, after, block, scratch)
            errors, more, value = _force_losses(
                part, given, order, place, after, share, rule, scratch.forces
            )
            forces, stresses, loss = forces + errors, stresses + more, loss + value
            if rule.mode > MEASURE:
                _push(shape, part, given, order, place, after, block, scratch)
            for network in range(shape.networks):
                begin, end = window(block, network)
                if rule.mode > MEASURE and begin < end:
                    own = own_weights(shape, vectors.weights, network)
                    out = own_weights(shape, vectors.gradient, network)
                    _backward(shape, own, block, scratch, begin, end, out)
            place, seen = after, seen + columns
        if rule.mode == STEP:
            steps += 1
            adam(vectors, rule, steps)
        start = stop
    return energies, loss, forces, stresses
