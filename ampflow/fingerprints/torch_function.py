"""GMP fingerprints as a function of torch, with gradients by positions and cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ampflow.fingerprints.gmp import GMP

__all__ = ["gmp_fingerprints"]


def gmp_fingerprints(
    descriptor: GMP,
    numbers: Tensor | NDArray[np.int64],
    positions: Tensor,
    cell: Tensor | None = None,
    pbc: bool | tuple[bool, bool, bool] = False,
) -> Tensor:
    """Compute fingerprints that torch can differentiate by positions and cell.

    Strain needs no argument of its own: stretch positions and cell by a tensor that wants a
    gradient, and the virial arrives there.

    Parameters
    ----------
    descriptor
        What to compute.
    numbers
        (n_atoms,) atomic numbers.
    positions
        (n_atoms, 3) in Å, float32 or float64, on any device.
    cell
        (3, 3) in Å, a vector a row; may be left out where nothing is periodic.
    pbc
        Which axes are periodic.

    Returns
    -------
    fingerprints
        (n_atoms, n_features), with the type and on the device of `positions`.

    Raises
    ------
    DataError
        As `GMP.compute`.
    RuntimeError
        Where a gradient of a gradient is asked for: second derivatives are not known.

    Notes
    -----
    Everything is computed in float64 on the CPU; tensors of another device are copied there and
    back. With the hard cutoff the function jumps where a neighbour crosses it, which no gradient
    shows: use `switch_width`.
    """
    if cell is None:
        cell = positions.new_zeros((3, 3))
    fingerprints: Tensor = _Fingerprints.apply(descriptor, numbers, positions, cell, pbc)  # type: ignore[no-untyped-call]
    return fingerprints


class _Fingerprints(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, descriptor: GMP, numbers: Any, positions: Tensor, cell: Tensor, pbc: Any
    ) -> Tensor:
        ctx.descriptor = descriptor
        ctx.atoms = Atoms(_host(numbers), _host(positions), cell=_host(cell), pbc=pbc)
        ctx.like = positions.detach().new_empty(0), cell.detach().new_empty(0)
        fingerprints: Tensor = ctx.like[0].new_tensor(descriptor.compute(ctx.atoms))
        return fingerprints

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Any, ...]:
        pulled = _Pulled.apply(ctx.descriptor, ctx.atoms, ctx.like, weights)  # type: ignore[no-untyped-call]
        return None, None, *pulled, None


class _Pulled(torch.autograd.Function):
    """The gradient, which has itself none."""

    @staticmethod
    def forward(ctx: Any, descriptor: GMP, atoms: Atoms, like: Any, weights: Tensor) -> Any:
        gradient, strain = descriptor.vjp(atoms, _host(weights))
        by_cell = _by_cell(gradient, strain, atoms)
        return like[0].new_tensor(gradient), like[1].new_tensor(by_cell)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "fingerprints have no second derivatives here: a loss that holds forces needs "
            "GMP.jacobian, or a trainer that differentiates the network alone twice"
        )


def _host(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _by_cell(
    gradient: NDArray[np.float64], strain: NDArray[np.float64], atoms: Atoms
) -> NDArray[np.float64]:
    """Return the (3, 3) derivative by cell vectors at fixed positions.

    The strain moves positions R and vectors h: dE/dε_kc = Σ_i dE/dR_ik R_ic + Σ_a dE/dh_ak h_ac.
    Vectors of axes that are not periodic do not matter.
    """
    result = np.zeros((3, 3))
    vectors = atoms.cell.array[atoms.pbc]
    rest = strain - gradient.T @ atoms.positions
    result[atoms.pbc] = (rest @ np.linalg.pinv(vectors)).T
    return result
