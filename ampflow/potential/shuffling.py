"""The order in which an epoch goes through the structures: all of them, window by window.

A window is some neighbourhoods of the part, drawn anew from the whole of it every epoch, and its
structures are shuffled among each other. So structures larger than memory can be read a window at
a time, in long runs; and the order does not depend on whether they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Window", "natural", "shuffled"]

_WINDOW = 2**22  # numbers (atoms times features): 16 MB in float32
_BLOCKS = 64  # in a window; each is some neighbours in the part


class Window(NamedTuple):
    """Structures that are trained on between two readings.

    Parameters
    ----------
    order
        (structures,) positions in the part.
    key
        Seeds dropout.
    """

    order: NDArray[np.int64]
    key: int


def shuffled(
    random: np.random.Generator, sizes: NDArray[np.int64], features: int, batch: int = 1
) -> list[Window]:
    """Draw the windows of an epoch: one, shuffled throughout, where all fits into one.

    Parameters
    ----------
    sizes
        (structures,) atoms of each.
    features
        Columns of the fingerprints.
    batch
        Structures that a window has at the least.
    """
    count, length = len(sizes), _length(sizes, features, batch)
    if length >= count:
        orders = [random.permutation(count)]
    else:
        block = -(-length // _BLOCKS)
        firsts = block * random.permutation(-(-count // block))
        drawn = (firsts[:, None] + np.arange(block)).ravel()
        drawn = drawn[drawn < count]
        orders = [
            random.permutation(part) for part in np.split(drawn, range(length, count, length))
        ]
    return [Window(order, int(random.integers(2**63))) for order in orders]


def natural(sizes: NDArray[np.int64], features: int) -> list[NDArray[np.int64]]:
    """Divide all structures, as they lie, into windows."""
    length = _length(sizes, features, 1)
    return np.split(np.arange(len(sizes)), range(length, len(sizes), length))


def _length(sizes: NDArray[np.int64], features: int, batch: int) -> int:
    """Return the structures of a window; nothing that does not decide the result is asked."""
    return max(batch, _WINDOW * len(sizes) // (features * int(sizes.sum())), 1)
