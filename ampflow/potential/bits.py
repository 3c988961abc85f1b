"""Vectors by their bits, for numba kernels: powers of two, random numbers, dropout."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from ampflow.simd import Typed, Vector, primitive, spread

__all__ = ["drop", "mix", "ramp", "scale"]

_INT = ir.IntType(32)


@primitive
def scale(_: Any, vector: Any, shifted: Any) -> Typed:
    """Multiply by 2^n, where `shifted` is n plus 1.5 times 2 to the number of mantissa bits."""
    width = vector.dtype.bitwidth
    mantissa = {32: 23, 64: 52}[width]

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        bits = ir.VectorType(ir.IntType(width), vector.lanes)
        value, power = (builder.bitcast(arg, bits) for arg in args)
        power = builder.shl(power, bits([mantissa] * vector.lanes))
        return builder.bitcast(builder.add(value, power), args[0].type)

    return vector(vector, shifted), generate


@primitive
def ramp(_: Any, like: Any, start: Any) -> Typed:
    """Return the 32-bit whole numbers from `start` on, as many as `like` has lanes."""
    vector = Vector(types.uint32, like.lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        first = spread(builder, builder.trunc(args[1], _INT), like.lanes)
        return builder.add(first, first.type(list(range(like.lanes))))

    return vector(like, types.int64), generate


@primitive
def mix(_: Any, bits: Any, key: Any) -> Typed:
    """Hash 32-bit numbers together with a key: xor, multiply, as in Wellons's lowbias32."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value = args[0]
        value = builder.xor(value, spread(builder, builder.trunc(args[1], _INT), bits.lanes))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            value = builder.xor(value, builder.lshr(value, value.type([shift] * bits.lanes)))
            value = builder.mul(value, value.type([factor] * bits.lanes))
        return value

    return bits(bits, types.int64), generate


@primitive
def drop(_: Any, vector: Any, bits: Any, limit: Any) -> Typed:
    """Set to zero the lanes whose `bits` are below `limit`."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value, drawn, limit = args
        limit = spread(builder, builder.trunc(limit, _INT), vector.lanes)
        return builder.select(
            builder.icmp_unsigned("<", drawn, limit), value.type([0.0] * vector.lanes), value
        )

    return vector(vector, bits, types.int64), generate
