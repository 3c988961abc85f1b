"""Matrix products over a block of atoms, compiled, in tiles of 4 rows by 3 vectors.

A tile's sums stay in registers. Rows of a block are padded to whole tiles, with numbers that
count for nothing. Columns from `begin` to `end` are computed; the last tile may go beyond.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ampflow.compiled import helper, inlined
from ampflow.simd import lanes, load_row, splat, store_row, total

__all__ = ["outer", "product"]

Array = NDArray[Any]


@inlined
def _tile(left: Array, r0: int, r1: int, r2: int, r3: int, right: Array, a: int) -> Any:
    """Return 4 rows by 3 vectors of `left` times `right`."""
    n = lanes(right)
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = splat(right.dtype.type(0))
    for t in range(len(right)):
        x0, x1, x2 = load_row(right, t, a), load_row(right, t, a + n), load_row(right, t, a + 2 * n)
        w = splat(left[r0, t])
        a0, a1, a2 = a0 + w * x0, a1 + w * x1, a2 + w * x2
        w = splat(left[r1, t])
        b0, b1, b2 = b0 + w * x0, b1 + w * x1, b2 + w * x2
        w = splat(left[r2, t])
        c0, c1, c2 = c0 + w * x0, c1 + w * x1, c2 + w * x2
        w = splat(left[r3, t])
        d0, d1, d2 = d0 + w * x0, d1 + w * x1, d2 + w * x2
    return a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2


@helper
def product(left: Array, right: Array, out: Array, begin: int, end: int, times: bool) -> None:
    """Put `left` times `right` into `out`; if `times`, multiply what is in `out` by it."""
    last = len(out) - 1
    for r0 in range(0, len(out), 4):  # rows beyond the last are the last once more
        r1, r2, r3 = min(r0 + 1, last), min(r0 + 2, last), min(r0 + 3, last)
        for a in range(begin, end, 3 * lanes(out)):
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


@inlined
def _times(out: Array, row: int, a: int, x0: Any, x1: Any, x2: Any) -> Any:
    n = lanes(out)
    return (
        x0 * load_row(out, row, a),
        x1 * load_row(out, row, a + n),
        x2 * load_row(out, row, a + 2 * n),
    )


@inlined
def _put(out: Array, row: int, a: int, x0: Any, x1: Any, x2: Any) -> None:
    n = lanes(out)
    store_row(out, row, a, x0)
    store_row(out, row, a + n, x1)
    store_row(out, row, a + 2 * n, x2)


@helper
def outer(left: Array, right: Array, out: Array, begin: int, end: int) -> None:
    """Add to `out` the products of each row of `left` with each of `right`."""
    rows, columns = len(left), len(right)
    for r0 in range(0, rows, 4):
        r1, r2, r3 = min(r0 + 1, rows - 1), min(r0 + 2, rows - 1), min(r0 + 3, rows - 1)
        for k0 in range(0, columns, 3):
            k1, k2 = min(k0 + 1, columns - 1), min(k0 + 2, columns - 1)
            a0 = a1 = a2 = b0 = b1 = b2 = splat(right.dtype.type(0))
            c0 = c1 = c2 = d0 = d1 = d2 = a0
            for a in range(begin, end, lanes(right)):
                x0, x1, x2 = load_row(right, k0, a), load_row(right, k1, a), load_row(right, k2, a)
                w = load_row(left, r0, a)
                a0, a1, a2 = a0 + w * x0, a1 + w * x1, a2 + w * x2
                w = load_row(left, r1, a)
                b0, b1, b2 = b0 + w * x0, b1 + w * x1, b2 + w * x2
                w = load_row(left, r2, a)
                c0, c1, c2 = c0 + w * x0, c1 + w * x1, c2 + w * x2
                w = load_row(left, r3, a)
                d0, d1, d2 = d0 + w * x0, d1 + w * x1, d2 + w * x2
            _add(out, r0, k0, a0, a1, a2)
            _add(out, r0 + 1, k0, b0, b1, b2)
            _add(out, r0 + 2, k0, c0, c1, c2)
            _add(out, r0 + 3, k0, d0, d1, d2)


@inlined
def _add(out: Array, row: int, column: int, x0: Any, x1: Any, x2: Any) -> None:
    if row < out.shape[0]:
        out[row, column] += total(x0)
        if column + 1 < out.shape[1]:
            out[row, column + 1] += total(x1)
        if column + 2 < out.shape[1]:
            out[row, column + 2] += total(x2)
