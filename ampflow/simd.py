"""Vectors of numbers as values in numba code, for kernels that say what lies in registers.

LLVM vectorises plain loops by luck. These primitives say it outright; LLVM translates them for
whatever the processor has: one register of AVX, two of SSE or NEON. Nothing is reordered: what a
lane holds does not depend on its neighbours. Bounds are not checked.

Arrays are read flat (`load`, `store`, `pick`, `put`), or by row and column (`load_row`,
`store_row`), as vectors of the machine's width then: 8 float32 or 4 float64.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["Typed", "Vector", "both_less", "eight", "fma", "four", "fused", "lanes", "larger"]
__all__ += ["length", "like", "load", "load_row", "multiply", "pick", "primitive", "put", "root"]
__all__ += ["smaller", "splat", "spread", "store", "store_row", "subtract", "total"]
__all__ += ["where_positive", "zeros"]

Typed = tuple[Any, Callable[[Any, ir.IRBuilder, Any, Any], Any]]
primitive: Callable[[Callable[..., Any]], Any] = intrinsic  # its own type asks for `_` as well

_declare: Any = cgutils.get_or_insert_function
_LANES = {types.float32: 8, types.float64: 4}
_FUSED = ("contract", "nsz")  # a product that feeds a sum is fused with it
_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()


class Vector(types.Type):
    """Numba's type of a vector."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"ampflow.vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        scalar = manager.lookup(vector.dtype).get_value_type()
        kind = ir.VectorType(scalar, vector.lanes)
        super().__init__(manager, vector, kind)  # type: ignore[no-untyped-call]


def lanes(array: Any) -> int:
    """Return how many of an array's numbers the machine's vector holds (in numba code only)."""
    raise NotImplementedError


@overload(lanes, strict=False)
def _lanes(array: Any) -> Callable[[Any], int]:
    count = _LANES[array.dtype]
    return lambda array: count


@primitive
def length(_: Any, vector: Any) -> Typed:
    """Return how many numbers a vector has."""

    def generate(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return context.get_constant(types.intp, vector.lanes)

    return types.intp(vector), generate


# Making vectors


def spread(builder: ir.IRBuilder, scalar: Any, count: int) -> Any:
    """Fill a vector with one number (while generating code)."""
    nothing = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(nothing, scalar, _INT(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, count), None))


def _filled(vector: Vector, *arguments: Any) -> Typed:
    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return spread(builder, args[0], vector.lanes)

    return vector(*arguments), generate


@primitive
def four(_: Any, scalar: Any) -> Typed:
    """Make a vector of four float64 of one number."""
    return _filled(Vector(types.float64, 4), types.float64)


@primitive
def eight(_: Any, scalar: Any) -> Typed:
    """Make a vector of eight float64 of one number."""
    return _filled(Vector(types.float64, 8), types.float64)


@primitive
def splat(_: Any, scalar: Any) -> Typed:
    """Make the machine's vector of one number."""
    return _filled(Vector(scalar, _LANES[scalar]), scalar)


@primitive
def like(_: Any, scalar: Any, vector: Any) -> Typed:
    """Make a vector of one number, as long as another."""
    return _filled(vector, vector.dtype, vector)


@primitive
def zeros(_: Any, numbers: Any) -> Typed:
    """Make a vector of zeros, as long as a tuple of float64: a length that Python chooses."""
    vector = Vector(types.float64, numbers.count)

    def generate(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), [0.0] * vector.lanes)

    return vector(numbers), generate


# Memory


def _at(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _in_row(context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> Any:
    made = context.make_array(kind)(context, builder, array)
    step = builder.extract_value(made.strides, 0)  # between rows, in bytes
    begin = builder.gep(builder.bitcast(made.data, _BYTES), [builder.mul(step, row)])
    return builder.gep(builder.bitcast(begin, made.data.type), [column])


def _read(context: Any, builder: Any, address: Any, vector: Vector) -> Any:
    kind = context.get_value_type(vector).as_pointer()
    return builder.load(builder.bitcast(address, kind), align=vector.dtype.bitwidth // 8)


def _write(context: Any, builder: Any, address: Any, value: Any, vector: Vector) -> Any:
    pointer = builder.bitcast(address, value.type.as_pointer())
    builder.store(value, pointer, align=vector.dtype.bitwidth // 8)
    return context.get_dummy_value()


@primitive
def load(_: Any, array: Any, index: Any, vector: Any) -> Typed:
    """Read as many numbers as `vector` has, from array[index] on."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return _read(context, builder, _at(context, builder, array, *args[:2]), vector)

    return vector(array, types.intp, vector), generate


@primitive
def store(_: Any, array: Any, index: Any, vector: Any) -> Typed:
    """Write a vector to array[index] and after."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        address = _at(context, builder, array, *args[:2])
        return _write(context, builder, address, args[2], vector)

    return types.void(array, types.intp, vector), generate


@primitive
def load_row(_: Any, array: Any, row: Any, column: Any) -> Typed:
    """Read the machine's vector from array[row, column] on."""
    vector = Vector(array.dtype, _LANES[array.dtype])

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return _read(context, builder, _in_row(context, builder, array, *args), vector)

    return vector(array, types.intp, types.intp), generate


@primitive
def store_row(_: Any, array: Any, row: Any, column: Any, vector: Any) -> Typed:
    """Write a vector to array[row, column] and after."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        address = _in_row(context, builder, array, *args[:3])
        return _write(context, builder, address, args[3], vector)

    return types.void(array, types.intp, types.intp, vector), generate


@primitive
def pick(_: Any, array: Any, index: Any) -> Typed:
    """Return array[index]; a negative index does not count from the end, which costs time."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return builder.load(_at(context, builder, array, *args))

    return array.dtype(array, types.intp), generate


@primitive
def put(_: Any, array: Any, index: Any, value: Any) -> Typed:
    """Write one number to array[index]."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        builder.store(args[2], _at(context, builder, array, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


# Arithmetic: primitives, and + - * / that fuse


def fused(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """Generate x y + z, in one operation where the processor can, else in two."""
    return _intrinsic(builder, "llvm.fmuladd", x, y, z)


def _intrinsic(builder: ir.IRBuilder, name: str, *values: Any) -> Any:
    kind = values[0].type
    bits = 32 if isinstance(kind.element, ir.FloatType) else 64
    signature = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(_declare(builder.module, signature, f"{name}.v{kind.count}f{bits}"), values)


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Any:
    @primitive
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

multiply = _binary(lambda builder, a, b: builder.fmul(a, b))
subtract = _binary(lambda builder, a, b: builder.fsub(a, b))

# Where `right` is not a number it is kept, so that nothing hides a divergence.
smaller = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
larger = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _where_positive(builder: Any, condition: Any, value: Any) -> Any:
    zero = value.type([0.0] * value.type.count)
    return builder.select(builder.fcmp_unordered(">", condition, zero), value, zero)


where_positive = _binary(_where_positive)  # right, or 0 where left is not above 0


@primitive
def fma(_: Any, x: Any, y: Any, z: Any) -> Typed:
    """Return x y + z."""
    return x(x, x, x), lambda _c, builder, _s, args: fused(builder, *args)


@primitive
def root(_: Any, x: Any) -> Typed:
    """Return the square root."""
    return x(x), lambda _c, builder, _s, args: _intrinsic(builder, "llvm.sqrt", *args)


@primitive
def total(_: Any, vector: Any) -> Typed:
    """Return the sum of the numbers, halves added to halves."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
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


@primitive
def both_less(_: Any, a: Any, b: Any, c: Any, d: Any) -> Typed:
    """Return an integer whose bit k says whether a[k] < b[k] and c[k] < d[k]."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        first = builder.fcmp_ordered("<", args[0], args[1])
        second = builder.fcmp_ordered("<", args[2], args[3])
        bits = builder.bitcast(builder.and_(first, second), ir.IntType(a.lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b, c, d), generate
