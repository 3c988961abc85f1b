"""The exponential of a vector, for numba kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from ampflow.simd import Typed, fused, primitive

__all__ = ["exp2"]

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


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


@primitive
def exp2(_: Any, x: Any) -> Typed:
    """Return 2**x for x <= 0 (below -1000: 2**-1000), relative error below 1e-15.

    x = k + r, k whole and |r| <= 1/2; a polynomial gives 2**r, and k is added to its exponent.
    """

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: Any) -> Any:
        doubles = ir.VectorType(ir.DoubleType(), x.lanes)
        integers = ir.VectorType(ir.IntType(64), x.lanes)
        lowest, rounder = _constant(doubles, _LOWEST), _constant(doubles, _ROUNDER)
        held = builder.select(builder.fcmp_ordered(">", args[0], lowest), args[0], lowest)
        shifted = builder.fadd(held, rounder)
        rest = builder.fsub(held, builder.fsub(shifted, rounder))
        squared = builder.fmul(rest, rest)
        even, odd = (_constant(doubles, coefficient) for coefficient in _EXP2[:2])
        for k in range(2, 10, 2):  # two short chains of operations that wait on each other
            even = fused(builder, even, squared, _constant(doubles, _EXP2[k]))
            odd = fused(builder, odd, squared, _constant(doubles, _EXP2[k + 1]))
        even = fused(builder, even, squared, _constant(doubles, 1.0))
        power = fused(builder, odd, rest, even)
        exponent = builder.shl(builder.bitcast(shifted, integers), _constant(integers, 52))
        raised = builder.add(builder.bitcast(power, integers), exponent)
        return builder.bitcast(raised, doubles)

    return x(x), generate
