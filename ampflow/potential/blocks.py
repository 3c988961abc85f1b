"""What the compiled arithmetic works on: structures in memory, and blocks of them in the cache.

Atoms are lanes. A block holds the atoms of some structures, and a row for each

    feature, one | node of layer 1, one | ... | node of the last hidden layer, one | energy

where a row of ones makes a layer's biases the last column of its weights. Blocks are small
enough to stay in the cache with all their layers. Where elements have networks of their own, the
atoms of each network are columns beside each other, which begin at a whole tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import entry, helper, inlined
from ampflow.simd import lanes

__all__ = ["Block", "Part", "gather", "padded", "standardise", "transpose", "window"]

Array = NDArray[Any]


class Part(NamedTuple):
    """Structures, each as runs of atoms of one network: all of it where there is one.

    All features of the first run, (features, atoms), then of the second one, ...
    """

    features: Array  # flat
    runs: NDArray[np.int64]  # (structures + 1,) where a structure's runs begin
    starts: NDArray[np.int64]  # (runs + 1,) where a run's atoms begin
    networks: NDArray[np.int64]  # (runs,) which network's they are
    targets: NDArray[np.float64]  # (structures,)


class Block(NamedTuple):
    """Memory for one block of atoms.

    `slopes` has a row for each hidden node: the derivative of its activation and, on the way
    back, that of the loss with respect to what went into it; and a last row for the loss's
    derivative with respect to the energy.
    """

    values: Array  # (rows as above, atoms)
    slopes: Array  # (layers nodes + 1, atoms)
    begins: NDArray[np.int64]  # (networks,) first column of each network's atoms
    ends: NDArray[np.int64]  # (networks,) the column after the last one
    columns: NDArray[np.int64]  # (atoms,) first column of each run, in order


@inlined
def padded(atoms: int, step: int) -> int:
    """Return the atoms of a block, filled up to whole vectors."""
    return (atoms + step - 1) // step * step


@inlined
def window(block: Block, network: int) -> tuple[int, int]:
    """Return the columns of a network's atoms, in whole vectors: the first, and after the last."""
    begin = block.begins[network]
    return begin, begin + padded(block.ends[network] - begin, lanes(block.values))


@helper
def _reserve(part: Part, order: NDArray[np.int64], start: int, stop: int, block: Block) -> int:
    """Give each network its columns for as many structures as fit; return the next structure."""
    counts, tile, used = block.ends, 3 * lanes(block.values), 0
    counts[:] = 0
    for place in range(start, stop):
        first, last = part.runs[order[place]], part.runs[order[place] + 1]
        for run in range(first, last):
            network, size = part.networks[run], part.starts[run + 1] - part.starts[run]
            used += padded(counts[network] + size, tile) - padded(counts[network], tile)
            counts[network] += size
        if used > block.values.shape[1]:
            for run in range(first, last):
                counts[part.networks[run]] -= part.starts[run + 1] - part.starts[run]
            stop = place
            break
    column = 0
    for network in range(len(counts)):
        block.begins[network] = column
        column += padded(counts[network], tile)
    return stop


@helper
def gather(
    part: Part, count: int, order: NDArray[np.int64], start: int, stop: int, block: Block
) -> tuple[int, int]:
    """Put whole structures into a block, as many as fit; return the next one, and the columns."""
    stop, k = _reserve(part, order, start, stop, block), 0
    block.ends[:] = block.begins
    for place in range(start, stop):
        for run in range(part.runs[order[place]], part.runs[order[place] + 1]):
            begin, end = part.starts[run], part.starts[run + 1]
            column = block.ends[part.networks[run]]
            for feature in range(count):
                source = begin * count + feature * (end - begin)
                for a in range(end - begin):
                    block.values[feature, column + a] = part.features[source + a]
            block.ends[part.networks[run]] = column + end - begin
            block.columns[k] = column
            k += 1
    return stop, block.ends[-1]


@entry
def transpose(
    features: Array, places: NDArray[np.int64], steps: NDArray[np.int64], out: Array
) -> None:
    """Turn (atoms, features) into the order of `Part.features`; see `runs.places`."""
    for a in range(len(features)):
        for feature in range(features.shape[1]):
            out[places[a] + feature * steps[a]] = features[a, feature]


@entry
def standardise(
    values: Array,
    starts: NDArray[np.int64],
    targets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    steps: NDArray[np.int64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    out: Array,
) -> None:
    """Put fingerprints, (atoms, features), standardised into the order of `Part.features`.

    A structure's atoms begin at `starts` in `values`, and at `targets` among those that have
    `places` in `out`.
    """
    for k in range(len(starts)):
        begin = starts[k]
        own = slice(targets[k], targets[k] + sizes[k])
        where, step = places[own], steps[own]
        for feature in range(values.shape[1]):  # `out` is written in runs
            middle, width = mean[feature], scale[feature]
            for a in range(len(where)):
                number = (values[begin + a, feature] - middle) / width
                out[where[a] + feature * step[a]] = number
