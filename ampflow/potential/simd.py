"""Vectors of 8 float32 or 4 float64 as values in numba code, one machine register each.

LLVM vectorises plain loops by luck; with vectors as values a kernel says itself what lies in
registers and what in memory. LLVM translates them for whatever the machine has: one AVX register,
two of SSE or NEON. A product that feeds a sum is fused with it, and nothing else is reordered:
what a lane holds does not depend on its neighbours.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["drop", "lanes", "larger", "load", "mix", "ramp", "scale", "smaller", "splat", "store"]
__all__ += ["total", "where_positive"]

_primitive: Callable[[Callable[..., Any]], Any] = intrinsic  # numba's own type asks for `_` too
_LANES = {types.float32: 8, types.float64: 4}
_FUSED = ("contract", "nsz")
_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()


class Vector(types.Type):
    """Numba's type of a register of numbers."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        scalar = manager.lookup(vector.dtype).get_value_type()
        kind = ir.VectorType(scalar, vector.lanes)
        super().__init__(manager, vector, kind)  # type: ignore[no-untyped-call]


def lanes(array: Any) -> int:
    """Return how many numbers of this array a vector holds (in numba code only)."""
    raise NotImplementedError


@overload(lanes, strict=False)
def _lanes(array: Any) -> Callable[[Any], int]:
    count = _LANES[array.dtype]
    return lambda array: count


def _pointer(context: Any, builder: Any, kind: Any, args: Any, vector: Vector) -> Any:
    array = context.make_array(kind)(context, builder, args[0])
    step = builder.extract_value(array.strides, 0)  # between rows, in bytes
    row = builder.gep(builder.bitcast(array.data, _BYTES), [builder.mul(step, args[1])])
    start = builder.gep(builder.bitcast(row, array.data.type), [args[2]])
    return builder.bitcast(start, context.get_value_type(vector).as_pointer())


@_primitive
def load(_: Any, array: Any, row: Any, column: Any) -> Any:
    """Load a vector from a row of a matrix, beginning at `column`."""
    vector = Vector(array.dtype, _LANES[array.dtype])

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        value = builder.load(_pointer(context, builder, array, args, vector))
        value.align = array.dtype.bitwidth // 8
        return value

    return vector(array, types.intp, types.intp), generate


@_primitive
def store(_: Any, array: Any, row: Any, column: Any, vector: Any) -> Any:
    """Store a vector to a row of a matrix, beginning at `column`."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        done = builder.store(args[3], _pointer(context, builder, array, args, vector))
        done.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    nothing = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(nothing, scalar, _INT(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, count), None))


@_primitive
def splat(_: Any, scalar: Any) -> Any:
    """Fill all lanes with one number."""
    vector = Vector(scalar, _LANES[scalar])
    return vector(scalar), lambda _c, builder, _s, args: _splat(builder, args[0], vector.lanes)


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Any:
    @_primitive
    def operation(_: Any, left: Any, right: Any) -> Any:
        if not isinstance(left, Vector) or left != right:
            return None
        return left(left, right), lambda _c, builder, _s, args: emit(builder, args[0], args[1])

    return operation


def _overload(function: Any, emit: Callable[[Any, Any, Any], Any]) -> None:
    operation = _binary(emit)

    @overload(function, strict=False)
    def choose(left: Any, right: Any) -> Any:
        if isinstance(left, Vector) and left == right:
            return lambda left, right: operation(left, right)
        return None


_overload(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FUSED))
_overload(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FUSED))
_overload(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FUSED))
_overload(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FUSED))

# Where `right` is not a number it is kept, so that nothing hides a divergence.
smaller = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
larger = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _where_positive(builder: Any, condition: Any, value: Any) -> Any:
    zero = value.type([0.0] * value.type.count)
    return builder.select(builder.fcmp_unordered(">", condition, zero), value, zero)


where_positive = _binary(_where_positive)  # right, or 0 where left is not above 0


@_primitive
def total(_: Any, vector: Any) -> Any:
    """Sum the lanes, halves onto halves."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value, count = args[0], vector.lanes
        while count > 1:
            count //= 2
            half = ir.VectorType(_INT, count)
            low, high = (
                builder.shuffle_vector(value, value, half(list(range(start, start + count))))
                for start in (0, count)
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, _INT(0))

    return vector.dtype(vector), generate


@_primitive
def scale(_: Any, vector: Any, shifted: Any) -> Any:
    """Multiply by 2^n, where `shifted` is n plus 1.5 times 2 to the number of mantissa bits."""
    width = vector.dtype.bitwidth
    mantissa = {32: 23, 64: 52}[width]

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        bits = ir.VectorType(ir.IntType(width), vector.lanes)
        value, power = (builder.bitcast(arg, bits) for arg in args)
        power = builder.shl(power, bits([mantissa] * vector.lanes))
        return builder.bitcast(builder.add(value, power), args[0].type)

    return vector(vector, shifted), generate


@_primitive
def ramp(_: Any, like: Any, start: Any) -> Any:
    """Return the 32-bit whole numbers from `start` on, as many as `like` has lanes."""
    vector = Vector(types.uint32, like.lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        first = _splat(builder, builder.trunc(args[1], _INT), like.lanes)
        return builder.add(first, first.type(list(range(like.lanes))))

    return vector(like, types.int64), generate


@_primitive
def mix(_: Any, bits: Any, key: Any) -> Any:
    """Hash 32-bit numbers together with a key: xor, multiply, as in Wellons's lowbias32."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value = args[0]
        value = builder.xor(value, _splat(builder, builder.trunc(args[1], _INT), bits.lanes))
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            value = builder.xor(value, builder.lshr(value, value.type([shift] * bits.lanes)))
            value = builder.mul(value, value.type([factor] * bits.lanes))
        return value

    return bits(bits, types.int64), generate


@_primitive
def drop(_: Any, vector: Any, bits: Any, limit: Any) -> Any:
    """Set to zero the lanes whose `bits` are below `limit`."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value, drawn, limit = args
        limit = _splat(builder, builder.trunc(limit, _INT), vector.lanes)
        return builder.select(
            builder.icmp_unsigned("<", drawn, limit), value.type([0.0] * vector.lanes), value
        )

    return vector(vector, bits, types.int64), generate
