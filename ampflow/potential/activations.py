"""Activations and dropout, compiled, a vector of numbers at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from ampflow.compiled import helper, inlined
from ampflow.potential.bits import drop, mix, ramp, scale
from ampflow.simd import (
    lanes,
    larger,
    load_row,
    smaller,
    splat,
    store_row,
    where_positive,
)

__all__ = ["ACTIVATIONS", "activate", "bend", "drop_out"]

_TANH, _SILU, _GELU, _RELU = range(4)
ACTIVATIONS = {"tanh": _TANH, "silu": _SILU, "gelu": _GELU, "relu": _RELU}

Array = NDArray[Any]

# Odd functions that end at 1, in float32, as x P(x²) / Q(x²), lowest power first: fitted for the
# least relative error (below 1e-7) up to the number given, from where on they are 1 to rounding.
_TANH_P = np.array([0.999999994, 0.134506198, 0.00357899114, 2.20232303e-05, 1.54279517e-08], "f4")
_TANH_Q = np.array([1.0, 0.467839478, 0.0261922346, 0.00034236491, 8.5987716e-07, 0.0], "f4")
_TANH_TOP = np.float32(7.9)
_ERF_P = np.array([0.797884494, 0.0875313249, 0.0101958539, 0.000499671375, 9.66867105e-06], "f4")
_ERF_Q = np.array(
    [1.0, 0.27636954, 0.033843832, 0.00233008606, 8.95759384e-05, 4.35616815e-07], "f4"
)  # erf(x / sqrt(2))
_ERF_TOP = np.float32(5.0)

# exp(y) = 2^n exp(r), |r| < ln(2) / 2: 1 / ln(2), a number that added to another one rounds it
# to a whole one and leaves that in the lowest bits, ln(2) in two parts, Taylor's coefficients.
_HALF = np.float32(0.5)
_TAYLOR = [1 / math.factorial(i) for i in range(14)]
_EXP_32 = np.array([1 / math.log(2), 1.5 * 2.0**23, 0.693359375, -2.12194440e-4, *_TAYLOR], "f4")
_EXP_64 = np.array(
    [1 / math.log(2), 1.5 * 2.0**52, 0.693147180369123816, 1.90821492927058770e-10, *_TAYLOR]
)


@inlined
def _rational(x: Any, p: Array, q: Array, top: Any) -> Any:
    x = larger(splat(-top), smaller(splat(top), x))
    s = x * x
    a, b = splat(p[4]), splat(q[5]) * s + splat(q[4])
    for i in range(3, -1, -1):
        a = a * s + splat(p[i])
        b = b * s + splat(q[i])
    return x * a / b


@inlined
def _exponential(y: Any, constants: Array, order: int) -> Any:
    shifted = y * splat(constants[0]) + splat(constants[1])
    n = shifted - splat(constants[1])
    r = y - n * splat(constants[2]) - n * splat(constants[3])
    e = splat(constants[4 + order])
    for i in range(3 + order, 3, -1):
        e = e * r + splat(constants[i])
    return scale(e, shifted)


@inlined
def _tanh_32(x: Any) -> Any:
    return _rational(x, _TANH_P, _TANH_Q, _TANH_TOP)


@inlined
def _tanh_64(x: Any) -> Any:
    y = larger(splat(-40.0), smaller(splat(40.0), x + x))
    return splat(1.0) - splat(2.0) / (_exponential(y, _EXP_64, 13) + splat(1.0))


def _tanh(x: Any) -> Any:
    raise NotImplementedError


@overload(_tanh, strict=False)
def _choose_tanh(x: Any) -> Any:
    function = _tanh_32 if x.dtype is types.float32 else _tanh_64
    return lambda x: function(x)


@helper
def activate(kind: int, values: Array, slopes: Array, begin: int, end: int) -> None:
    """Replace values of each row by their activation; put its derivative in `slopes`.

    As everywhere here, those of the columns from `begin` to `end`, in whole vectors.
    """
    if kind == _GELU:
        _gelu(values, slopes, begin, end)
        return
    number = values.dtype.type
    one, half = splat(number(1)), splat(number(0.5))
    for row in range(len(values)):
        for a in range(begin, end, lanes(values)):
            x = load_row(values, row, a)
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
            store_row(values, row, a, y)
            store_row(slopes, row, a, slope)


@helper
def _gelu_32(values: Array, slopes: Array, begin: int, end: int) -> None:
    half, minus, low = splat(_HALF), splat(-_HALF), splat(np.float32(-80))
    density = splat(np.float32(1 / math.sqrt(2 * math.pi)))
    for row in range(len(values)):
        for a in range(begin, end, lanes(values)):
            x = load_row(values, row, a)
            below = half * _rational(x, _ERF_P, _ERF_Q, _ERF_TOP) + half
            here = density * _exponential(larger(low, x * x * minus), _EXP_32, 7)
            store_row(values, row, a, x * below)
            store_row(slopes, row, a, x * here + below)


@helper
def _gelu_64(values: Array, slopes: Array, begin: int, end: int) -> None:
    for row in range(len(values)):
        for a in range(begin, end):  # number by number, with the C library's erf
            x = values[row, a]
            below = 0.5 * (1 + math.erf(x * math.sqrt(0.5)))
            values[row, a] = x * below
            slopes[row, a] = below + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu(values: Array, slopes: Array, begin: int, end: int) -> None:
    raise NotImplementedError


@overload(_gelu, strict=False)
def _choose_gelu(values: Any, slopes: Any, begin: Any, end: Any) -> Any:
    function = _gelu_32 if values.dtype is types.float32 else _gelu_64
    return lambda values, slopes, begin, end: function(values, slopes, begin, end)


@helper
def bend(kind: int, values: Array, curves: Array, begin: int, end: int) -> None:
    """Put the second derivative of the activation of values of each row in `curves`."""
    if kind == _GELU:
        _bend_gelu(values, curves, begin, end)
        return
    number = values.dtype.type
    one, two, half = splat(number(1)), splat(number(2)), splat(number(0.5))
    for row in range(len(values)):
        for a in range(begin, end, lanes(values)):
            x = load_row(values, row, a)
            if kind == _TANH:
                y = _tanh(x)
                curve = two * y * (y * y - one)
            elif kind == _SILU:
                gate = half * _tanh(half * x) + half
                curve = gate * (one - gate) * (two + x * (one - two * gate))
            else:
                curve = x - x  # what is not a number stays so
            store_row(curves, row, a, curve)


@helper
def _bend_gelu_32(values: Array, curves: Array, begin: int, end: int) -> None:
    minus, low, two = splat(-_HALF), splat(np.float32(-80)), splat(np.float32(2))
    density = splat(np.float32(1 / math.sqrt(2 * math.pi)))
    for row in range(len(values)):
        for a in range(begin, end, lanes(values)):
            x = load_row(values, row, a)
            here = density * _exponential(larger(low, x * x * minus), _EXP_32, 7)
            store_row(curves, row, a, here * (two - x * x))


@helper
def _bend_gelu_64(values: Array, curves: Array, begin: int, end: int) -> None:
    for row in range(len(values)):
        for a in range(begin, end):
            x = values[row, a]
            curves[row, a] = (2 - x * x) * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _bend_gelu(values: Array, curves: Array, begin: int, end: int) -> None:
    raise NotImplementedError


@overload(_bend_gelu, strict=False)
def _choose_bend_gelu(values: Any, curves: Any, begin: Any, end: Any) -> Any:
    function = _bend_gelu_32 if values.dtype is types.float32 else _bend_gelu_64
    return lambda values, curves, begin, end: function(values, curves, begin, end)


@helper
def drop_out(
    rate: float, key: int, atom: int, values: Array, slopes: Array, begin: int, end: int
) -> None:
    """Set a share of the values to zero and enlarge the rest.

    Which, depends on `key`, the row, and the atom's place in the epoch (`atom` is that of
    column 0).
    """
    kept = splat(values.dtype.type(1 / (1 - rate)))
    limit = np.int64(rate * 2.0**32)
    for row in range(len(values)):
        for a in range(begin, end, lanes(values)):
            drawn = mix(mix(ramp(kept, atom + a), row), key)
            store_row(values, row, a, drop(load_row(values, row, a) * kept, drawn, limit))
            store_row(slopes, row, a, drop(load_row(slopes, row, a) * kept, drawn, limit))
