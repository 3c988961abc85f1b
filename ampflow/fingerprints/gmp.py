"""Gaussian multipole (GMP) fingerprints of atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import OptionError
from ampflow.fingerprints.blocks import Block, feature_names, make_blocks
from ampflow.fingerprints.densities import Densities, builtin_densities
from ampflow.fingerprints.harmonics import MAX_ORDER, make_multipoles
from ampflow.fingerprints.placing import Batch, place, refusal, single

if TYPE_CHECKING:
    from ase import Atoms
    from scipy.sparse import csr_array

    from ampflow.fingerprints.harmonics import Multipoles
    from ampflow.fingerprints.neighbours import Pairs

__all__ = ["GMP", "KERNEL_VERSION"]

KERNEL_VERSION = 1
"""Raised whenever the same descriptor would give other numbers: stores are named by it."""


_WORDS = {
    "normalize": ("order", "group"),
    "harmonics": ("solid", "surface"),
    "rs_setup": ("constant", "scale"),
}


class GMP:
    """Gaussian multipole fingerprints: the electron density around each atom, at several widths.

    Parameters
    ----------
    sigmas
        Widths of the Gaussian probes in Å, each once: the same for all orders, or {order: widths}.
    orders
        Orders of the multipoles, 0 to 8, each once.
    cutoff
        Neighbours at this distance in Å or farther are ignored.
    normalize
        "order": one rotation-invariant feature an order (AMPTorch's GMPOrderNorm). "group": one
        a group of harmonics, orders ascending (AMPTorch's GMP).
    harmonics
        "solid", or "surface". "group" always has surface harmonics.
    square
        Keep sums of squares; otherwise their root (and "group" keeps the sign of groups of one).
    densities
        Electron densities of the elements; by default ampflow's own.
    switch_width
        Neighbours fade over this last part of the cutoff, in Å, with two continuous derivatives.
        0: the cut is hard, as AMPTorch's is.
    rs
        Radius at which surface harmonics are taken. Solid ones have none.
    rs_setup
        "constant": `rs` is in Å. "scale": it is in units of each sigma.

    Raises
    ------
    OptionError
        If a parameter makes no sense.

    Notes
    -----
    docs/fingerprints.md has the formulas. After Lei and Medford, J. Phys. Chem. Lett. 13, 7911
    (2022), and the code of AMPTorch.
    """

    def __init__(
        self,
        sigmas: Sequence[float] | Mapping[int, Sequence[float]],
        orders: Sequence[int],
        cutoff: float,
        normalize: Literal["order", "group"] = "order",
        harmonics: Literal["solid", "surface"] = "solid",
        square: bool = False,
        densities: Densities | None = None,
        switch_width: float = 0.0,
        rs: float = 1.0,
        rs_setup: Literal["constant", "scale"] = "constant",
    ) -> None:
        self.orders = tuple(int(order) for order in orders)
        self.normalize = normalize
        self.harmonics = harmonics
        if normalize == "group":
            self.harmonics, self.orders = "surface", tuple(sorted(self.orders))
        self.sigmas = _by_order(sigmas, self.orders)
        self.cutoff = float(cutoff)
        self.switch_width = float(switch_width)
        self.rs, self.rs_setup = (
            (1.0, "constant") if self.harmonics == "solid" else (float(rs), rs_setup)
        )
        self.square = bool(square)
        self.densities = builtin_densities() if densities is None else densities
        self._check()
        self.feature_names = feature_names(self._multipoles_of, self.sigmas)

    @property
    def num_features(self) -> int:
        """Features of an atom."""
        return len(self.feature_names)

    def compute(self, atoms: Atoms) -> NDArray[np.float64]:
        """Return the fingerprints of a structure's atoms: (n_atoms, n_features), float64.

        Raises
        ------
        DataError
            If there are no atoms, an element without a density, a position or cell that is not
            finite, or periodic axes whose cell vectors span no volume.
        """
        return self.compute_batch(single(atoms))

    def compute_batch(self, batch: Batch) -> NDArray[np.float64]:
        """Return the fingerprints of many structures' atoms, bit for bit what `compute` returns.

        It is faster for many small structures, and compiled code runs without Python's lock for
        all of them, so that threads do not wait for each other.

        Raises
        ------
        DataError
            As `compute`, for any of them.
        """
        # Compiled code is loaded when it is needed: importing numba takes half a second.
        from ampflow.fingerprints.kernel import features

        out = np.empty((len(batch.numbers), self.num_features))
        run = _Run(self, batch)
        for block in self._blocks:
            run(features, block, out)
        return out

    def vjp(
        self, atoms: Atoms, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pull a derivative by features back to positions and strain, without a Jacobian.

        Parameters
        ----------
        atoms
            A structure.
        weights
            (n_atoms, n_features) dE/dF, where E is any function of the features F.

        Returns
        -------
        gradient, strain
            (n_atoms, 3) dE/dR in E's unit per Å (forces are its negative), and (3, 3) dE/dε in
            E's unit, where positions and cell are stretched to (1 + ε) R (the stress is this
            divided by the volume). The root of a zero has no slope: 0 is taken.

        Raises
        ------
        DataError
            As `compute`.
        ValueError
            If `weights` has another shape.
        """
        from ampflow.fingerprints.gradient import gradients

        weights = np.array(weights, dtype=np.float64, order="C")
        if weights.shape != (len(atoms), self.num_features):
            raise ValueError(f"weights: {weights.shape}, not {len(atoms), self.num_features}")
        gradient, strain = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        run = _Run(self, single(atoms))
        for block in self._blocks:
            run(gradients, block, block.slopes, weights, gradient, strain)
        return gradient, strain

    def jacobian(self, atoms: Atoms) -> csr_array:
        """Return the derivative of every feature by every position, sparse.

        Returns
        -------
        jacobian
            (n_atoms n_features, 3 n_atoms) in 1/Å: row `atom * n_features + feature`, column
            `3 * moved_atom + axis`. All that lies within the cutoff is stored, zero or not.

        Raises
        ------
        DataError
            As `compute`.
        """
        return self._jacobian(atoms, np.zeros((0, self.num_features, 6)))

    def jacobians(self, atoms: Atoms) -> tuple[csr_array, NDArray[np.float64]]:
        """Return the derivatives of every feature by every position and by strain.

        Returns
        -------
        jacobian, strains
            As `jacobian` returns it, and (n_atoms, n_features, 6) by a symmetric strain ε (see
            `vjp`), its components in Voigt's order xx, yy, zz, yz, xz, xy: a component off the
            diagonal is half the derivative by an ε that has it on both sides of the diagonal.

        Raises
        ------
        DataError
            As `compute`.
        """
        strains = np.zeros((len(atoms), self.num_features, 6))
        return self._jacobian(atoms, strains), strains

    def _jacobian(self, atoms: Atoms, strains: NDArray[np.float64]) -> csr_array:
        from ampflow.fingerprints.jacobian import assemble, dependences, jacobian

        run = _Run(self, single(atoms))
        start, moved = dependences(run.pairs, len(atoms))
        data = np.zeros(3 * len(moved) * self.num_features)
        for block in self._blocks:
            run(jacobian, block, block.slopes, start, moved, data, strains)
        return assemble(data, start, moved, self.num_features)

    @cached_property
    def _blocks(self) -> list[Block]:
        def radius(sigma: float) -> float:
            return self.rs * sigma if self.rs_setup == "scale" else self.rs

        return make_blocks(self._multipoles_of, self.densities, self.sigmas, radius, self.square)

    @cached_property
    def _multipoles_of(self) -> Callable[[Sequence[int]], Multipoles]:
        return partial(
            make_multipoles,
            normalize=self.normalize,
            harmonics=self.harmonics,
            square=self.square,
        )

    def config(self, numbers: Iterable[int] | None = None) -> dict[str, Any]:
        """Return all that `from_config` needs, for JSON.

        Parameters
        ----------
        numbers
            Keep the densities of these elements only.

        Raises
        ------
        DataError
            If one of them has no density.
        """
        densities = self.densities if numbers is None else self.densities.subset(numbers)
        return {**self._parameters, "densities": densities.to_json()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make the descriptor whose `config()` this is."""
        return cls(**{**config, "densities": Densities.from_json(config["densities"])})

    @cached_property
    def digest(self) -> str:
        """Name of the descriptor: changes with anything that changes a fingerprint."""
        return digest(self._parameters, self.densities.digest, KERNEL_VERSION)

    def _check(self) -> None:
        widths = list(self.sigmas.values())
        for name, lists in (("sigmas", widths), ("orders", [self.orders])):
            if not all(lists) or any(len(set(values)) < len(values) for values in lists):
                raise OptionError(f"{name} = {lists}: give at least one, each once")
        if not all(0 < sigma < np.inf for values in widths for sigma in values):
            raise OptionError(f"sigmas = {widths}: each must be above 0 (Å)")
        if not all(0 <= order <= MAX_ORDER for order in self.orders):
            raise OptionError(f"orders = {list(self.orders)}: each must be 0 to {MAX_ORDER}")
        if not 0 < self.cutoff < np.inf:
            raise OptionError(f"cutoff = {self.cutoff}: must be above 0 (Å)")
        if not 0 <= self.switch_width <= self.cutoff:
            raise OptionError(f"switch_width = {self.switch_width}: 0 to the cutoff (Å)")
        if not 0 < self.rs < np.inf:
            raise OptionError(f"rs = {self.rs}: must be above 0")
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise OptionError(f"{name} = {getattr(self, name)!r}", " or ".join(known))

    @property
    def _parameters(self) -> dict[str, Any]:
        own_radius = self.rs == 1.0 and self.rs_setup == "constant"
        return {
            "sigmas": _for_all(self.sigmas),
            "orders": list(self.orders),
            "cutoff": self.cutoff,
            "switch_width": self.switch_width,
            "normalize": self.normalize,
            "harmonics": self.harmonics,
            "square": self.square,
            # Left out where it is 1 Å: descriptors had the same digest before there was a choice.
            **({} if own_radius else {"rs": self.rs, "rs_setup": self.rs_setup}),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GMP) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._parameters.items())
        return f"GMP({options})"


class _Run:
    """Finds the neighbours in some structures, and runs compiled code on them."""

    def __init__(self, descriptor: GMP, batch: Batch) -> None:
        from ampflow.compiled import called
        from ampflow.fingerprints.neighbours import half_pairs

        self._batch, self._descriptor = batch, descriptor
        cutoff = descriptor.cutoff
        self._switch = cutoff - descriptor.switch_width, cutoff
        self.pairs: Pairs = called(half_pairs, *place(batch), cutoff)
        if self.pairs.found < 0:
            raise self._refusal()

    def __call__(self, kernel: Callable[..., bool], block: Block, *arrays: Any) -> None:
        from ampflow.compiled import called

        numbers = self._batch.numbers
        arguments = block.vector, self.pairs, numbers, self._switch, *block.tables, *arrays
        if not called(kernel, *arguments):
            raise self._refusal()

    def _refusal(self) -> Exception:
        return refusal(self._batch, self._descriptor.densities, self._descriptor.cutoff)


def _by_order(
    sigmas: Sequence[float] | Mapping[int, Sequence[float]], orders: Sequence[int]
) -> dict[int, tuple[float, ...]]:
    """Order to its sigmas, whichever way they were given."""
    if not isinstance(sigmas, Mapping):
        return dict.fromkeys(orders, tuple(float(sigma) for sigma in sigmas))
    given = {int(order): tuple(map(float, values)) for order, values in sigmas.items()}
    if set(given) != set(orders):
        raise OptionError(f"sigmas of orders {sorted(given)}, but orders = {sorted(orders)}")
    return {order: given[order] for order in orders}


def _for_all(sigmas: Mapping[int, tuple[float, ...]]) -> list[float] | dict[str, list[float]]:
    """One list if all orders have the same sigmas, else {order: list}, for JSON."""
    if len(set(sigmas.values())) == 1:
        return list(next(iter(sigmas.values())))
    return {str(order): list(values) for order, values in sigmas.items()}
