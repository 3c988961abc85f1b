"""Vectors of four float64 for numba kernels.

Numba leaves vectorising to LLVM, which gives up on the short, irregular loops of the fingerprint
kernel. These few primitives say it outright; LLVM maps them to whatever the processor has.
They work on flat contiguous float64 arrays, at any index, and do not check bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

__all__ = ["LANES", "add", "exp2", "fma", "load", "multiply", "splat", "store", "total"]

LANES = 4

_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(64), LANES)
_INDEX = ir.IntType(32)

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

_primitive: Callable[[Callable[..., Any]], Any] = intrinsic  # numba's own type asks for `_` as well
_declare: Any = cgutils.get_or_insert_function
_Generator = Callable[[Any, ir.IRBuilder, Any, Any], Any]
_Typed = tuple[Any, _Generator]


class _Vector(types.Type):
    pass


_vector: Any = _Vector(name="ampflow.float64x4")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _DOUBLES)  # type: ignore[no-untyped-call]


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_DOUBLES, [value] * LANES)


def _address(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _DOUBLES.as_pointer())


def _fused(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
    name = f"llvm.fmuladd.v{LANES}f64"  # fused where the processor can, else two operations
    return builder.call(_declare(builder.module, kind, name), [x, y, z])


@_primitive
def load(_: Any, array: Any, index: Any) -> _Typed:
    """Read array[index : index + 4]."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=8)

    return _vector(array, types.intp), generate


@_primitive
def store(_: Any, array: Any, index: Any, vector: Any) -> _Typed:
    """Write array[index : index + 4]."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), generate


@_primitive
def splat(_: Any, scalar: Any) -> _Typed:
    """Make a vector of one number."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_DOUBLES, ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.Constant(_INDEX, 0))
        everywhere = ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES)
        return builder.shuffle_vector(first, undefined, everywhere)

    return _vector(types.float64), generate


@_primitive
def add(_: Any, x: Any, y: Any) -> _Typed:
    """Return x + y."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return _vector(_vector, _vector), generate


@_primitive
def multiply(_: Any, x: Any, y: Any) -> _Typed:
    """Return x y."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)

    return _vector(_vector, _vector), generate


@_primitive
def fma(_: Any, x: Any, y: Any, z: Any) -> _Typed:
    """Return x y + z."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _fused(builder, *args)

    return _vector(_vector, _vector, _vector), generate


@_primitive
def total(_: Any, x: Any) -> _Typed:
    """Return the sum of the four."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lanes = [
            builder.extract_element(args[0], ir.Constant(_INDEX, lane)) for lane in range(LANES)
        ]
        return builder.fadd(builder.fadd(lanes[0], lanes[2]), builder.fadd(lanes[1], lanes[3]))

    return types.float64(_vector), generate


@_primitive
def exp2(_: Any, x: Any) -> _Typed:
    """Return 2**x for x <= 0 (below -1000: 2**-1000), relative error below 1e-15.

    x = k + r, k whole and |r| <= 1/2; a polynomial gives 2**r, and k is added to its exponent.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        lowest = _constant(_LOWEST)
        held = builder.select(builder.fcmp_ordered(">", args[0], lowest), args[0], lowest)
        shifted = builder.fadd(held, _constant(_ROUNDER))
        rest = builder.fsub(held, builder.fsub(shifted, _constant(_ROUNDER)))
        power = _constant(_EXP2[0])
        for coefficient in (*_EXP2[1:], 1.0):
            power = _fused(builder, power, rest, _constant(coefficient))
        mantissa_bits = ir.Constant(_INTEGERS, [52] * LANES)
        exponent = builder.shl(builder.bitcast(shifted, _INTEGERS), mantissa_bits)
        return builder.bitcast(builder.add(builder.bitcast(power, _INTEGERS), exponent), _DOUBLES)

    return _vector(_vector), generate
