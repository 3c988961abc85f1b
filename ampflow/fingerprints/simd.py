"""Vectors of four or eight float64 for numba kernels.

Numba leaves vectorising to LLVM, which gives up on the short, irregular loops of the fingerprint
kernel. These few primitives say it outright; LLVM maps them to whatever the processor has.
They work on flat contiguous arrays, at any index, and do not check bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

__all__ = [
    "eight",
    "exp2",
    "fma",
    "four",
    "length",
    "like",
    "load",
    "multiply",
    "pick",
    "store",
    "total",
]

# Adding this to a small number leaves its nearest integer in the lowest bits of the mantissa.
_ROUNDER = 1.5 * 2.0**52
_LOWEST = -1000.0  # 2**-1000 is nothing beside any other term, and still a normal number

# (2**x - 1) / x on [-1/2, 1/2], interpolated at ten Chebyshev nodes in 60-digit arithmetic, highest
# power first: 2**x has a relative error of 6e-16 at most.
_EXP2 = (
    7.070977866508138e-09,
    1.0205905413765595e-07,
    1.3215451633221434e-06,
    1.5252672924850737e-05,
    0.00015403530424776529,
    0.0013333558200794592,
    0.009618129107618665,
    0.05550410866465167,
    0.24022650695910075,
    0.6931471805599462,
)

_primitive: Callable[[Callable[..., Any]], Any] = intrinsic  # its own type asks for `_` as well
_declare: Any = cgutils.get_or_insert_function
_Generator = Callable[[Any, ir.IRBuilder, Any, Any], Any]
_Typed = tuple[Any, _Generator]
_INDEX = ir.IntType(32)


class _Vector(types.Type):
    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"ampflow.float64x{lanes}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _doubles(kind.lanes))  # type: ignore[no-untyped-call]


def _doubles(lanes: int) -> Any:
    return ir.VectorType(ir.DoubleType(), lanes)


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _address(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _fused(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    name = f"llvm.fmuladd.v{x.type.count}f64"  # fused where the processor can, else two operations
    function = _declare(builder.module, ir.FunctionType(x.type, [x.type] * 3), name)
    return builder.call(function, [x, y, z])


def _splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(_doubles(lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INDEX, 0))
    everywhere = ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, everywhere)


@_primitive
def four(_: Any, scalar: Any) -> _Typed:
    """Make a vector of four of one number."""
    return _Vector(4)(types.float64), lambda _c, builder, _s, args: _splat(builder, args[0], 4)


@_primitive
def eight(_: Any, scalar: Any) -> _Typed:
    """Make a vector of eight of one number."""
    return _Vector(8)(types.float64), lambda _c, builder, _s, args: _splat(builder, args[0], 8)


@_primitive
def like(_: Any, scalar: Any, vector: Any) -> _Typed:
    """Make a vector of one number, as long as another."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], vector.lanes)

    return vector(types.float64, vector), generate


@_primitive
def length(_: Any, vector: Any) -> _Typed:
    """Return how many numbers a vector has."""

    def generate(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return context.get_constant(types.intp, vector.lanes)

    return types.intp(vector), generate


@_primitive
def load(_: Any, array: Any, index: Any, vector: Any) -> _Typed:
    """Read as many numbers as `vector` has, from array[index] on."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, args[0], args[1])
        pointer = builder.bitcast(address, _doubles(vector.lanes).as_pointer())
        return builder.load(pointer, align=8)

    return vector(array, types.intp, vector), generate


@_primitive
def store(_: Any, array: Any, index: Any, vector: Any) -> _Typed:
    """Write a vector to array[index] and after."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, args[0], args[1])
        pointer = builder.bitcast(address, _doubles(vector.lanes).as_pointer())
        builder.store(args[2], pointer, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@_primitive
def pick(_: Any, array: Any, index: Any) -> _Typed:
    """Return array[index]; a negative index does not count from the end, which costs time."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, array, args[0], args[1]))

    return array.dtype(array, types.intp), generate


@_primitive
def multiply(_: Any, x: Any, y: Any) -> _Typed:
    """Return x y."""
    return x(x, x), lambda _c, builder, _s, args: builder.fmul(*args)


@_primitive
def subtract(_: Any, x: Any, y: Any) -> _Typed:
    """Return x - y."""
    return x(x, x), lambda _c, builder, _s, args: builder.fsub(*args)


@_primitive
def fma(_: Any, x: Any, y: Any, z: Any) -> _Typed:
    """Return x y + z."""
    return x(x, x, x), lambda _c, builder, _s, args: _fused(builder, *args)


@_primitive
def root(_: Any, x: Any) -> _Typed:
    """Return the square root."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        kind = _doubles(x.lanes)
        function = _declare(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{x.lanes}f64"
        )
        return builder.call(function, args)

    return x(x), generate


@_primitive
def total(_: Any, x: Any) -> _Typed:
    """Return the sum of the numbers."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        parts = [builder.extract_element(args[0], ir.Constant(_INDEX, k)) for k in range(x.lanes)]
        while len(parts) > 1:
            half = len(parts) // 2
            halves = zip(parts[:half], parts[half:], strict=True)
            parts = [builder.fadd(a, b) for a, b in halves]
        return parts[0]

    return types.float64(x), generate


@_primitive
def both_less(_: Any, a: Any, b: Any, c: Any, d: Any) -> _Typed:
    """Return an integer whose bit k says whether a[k] < b[k] and c[k] < d[k]."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        first = builder.fcmp_ordered("<", args[0], args[1])
        second = builder.fcmp_ordered("<", args[2], args[3])
        bits = builder.bitcast(builder.and_(first, second), ir.IntType(a.lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b, c, d), generate


@_primitive
def put(_: Any, array: Any, index: Any, value: Any) -> _Typed:
    """Write one number to array[index]."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, array, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@_primitive
def exp2(_: Any, x: Any) -> _Typed:
    """Return 2**x for x <= 0 (below -1000: 2**-1000), relative error below 1e-15.

    x = k + r, k whole and |r| <= 1/2; a polynomial gives 2**r, and k is added to its exponent.
    """

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        doubles = _doubles(x.lanes)
        integers = ir.VectorType(ir.IntType(64), x.lanes)
        lowest, rounder = _constant(doubles, _LOWEST), _constant(doubles, _ROUNDER)
        held = builder.select(builder.fcmp_ordered(">", args[0], lowest), args[0], lowest)
        shifted = builder.fadd(held, rounder)
        rest = builder.fsub(held, builder.fsub(shifted, rounder))
        squared = builder.fmul(rest, rest)
        even, odd = (_constant(doubles, coefficient) for coefficient in _EXP2[:2])
        for k in range(2, 10, 2):  # two short chains of operations that wait on each other
            even = _fused(builder, even, squared, _constant(doubles, _EXP2[k]))
            odd = _fused(builder, odd, squared, _constant(doubles, _EXP2[k + 1]))
        even = _fused(builder, even, squared, _constant(doubles, 1.0))
        power = _fused(builder, odd, rest, even)
        exponent = builder.shl(builder.bitcast(shifted, integers), _constant(integers, 52))
        raised = builder.add(builder.bitcast(power, integers), exponent)
        return builder.bitcast(raised, doubles)

    return x(x), generate
