"""Gaussian multipole (GMP) fingerprints of atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import DataError, OptionError
from ampflow.fingerprints.densities import Densities, builtin_densities
from ampflow.fingerprints.harmonics import MAX_ORDER, solid_multipoles, surface_multipoles
from ampflow.fingerprints.tables import Angular, make_slopes, make_tables

if TYPE_CHECKING:
    from ase import Atoms
    from scipy.sparse import csr_array

__all__ = ["GMP", "KERNEL_VERSION"]

KERNEL_VERSION = 1
"""Raised whenever the same descriptor would give other numbers: stores are named by it."""


class GMP:
    """Gaussian multipole fingerprints: the electron density around each atom, at several widths.

    Parameters
    ----------
    sigmas
        Widths of the Gaussian probes in Å, each once.
    orders
        Orders of the multipoles, 0 to 8, each once.
    cutoff
        Neighbours at this distance in Å or farther are ignored.
    normalize
        "order": one rotation-invariant feature an order (AMPTorch's GMPOrderNorm). "group": one
        a group of harmonics, orders ascending (AMPTorch's GMP).
    harmonics
        "solid", or "surface" at radius 1 Å. "group" always has surface harmonics.
    square
        Keep sums of squares; otherwise their root (and "group" keeps the sign of groups of one).
    densities
        Electron densities of the elements; by default ampflow's own.
    switch_width
        Neighbours fade over this last part of the cutoff, in Å, with two continuous derivatives.
        0: the cut is hard, as AMPTorch's is.

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
        sigmas: Sequence[float],
        orders: Sequence[int],
        cutoff: float,
        normalize: Literal["order", "group"] = "order",
        harmonics: Literal["solid", "surface"] = "solid",
        square: bool = False,
        densities: Densities | None = None,
        switch_width: float = 0.0,
    ) -> None:
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self.orders = tuple(int(order) for order in orders)
        self.cutoff = float(cutoff)
        self.switch_width = float(switch_width)
        self.normalize = normalize
        self.harmonics = harmonics
        self.square = bool(square)
        self.densities = builtin_densities() if densities is None else densities
        self._check()
        if normalize == "group":
            self.harmonics, self.orders = "surface", tuple(sorted(self.orders))
        multipoles = (
            solid_multipoles(self.orders)
            if self.harmonics == "solid"
            else surface_multipoles(
                self.orders, by_group=normalize == "group", signed=not self.square
            )
        )
        self.feature_names = [
            f"{feature.name}-sigma{sigma}"
            for feature in multipoles.features
            for sigma in self.sigmas
        ]
        self._multipoles = multipoles
        self._tables = make_tables(multipoles, self.densities, self.sigmas)

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
        # Compiled code is loaded when it is needed: importing numba takes half a second.
        from ampflow.fingerprints.kernel import features

        out = np.empty((len(atoms), self.num_features))
        self._run(features, atoms, out)
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
        self._run(gradients, atoms, self._slopes, weights, gradient, strain)
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
        from ampflow.compiled import called
        from ampflow.fingerprints.jacobian import assemble, dependences, jacobian
        from ampflow.fingerprints.neighbours import half_pairs

        numbers, positions, cell, pbc, cutoff, onset = self._place(atoms)
        for number in set(numbers.tolist()):
            self.densities.of(number)
        pairs = called(half_pairs, positions, cell, pbc, cutoff)
        if pairs.found < 0:
            raise self._explain(atoms)
        start, moved = dependences(pairs, len(atoms))
        data = np.zeros(3 * len(moved) * self.num_features)
        tables = (*self._tables, self.square, self._slopes)
        called(jacobian, pairs, numbers, cutoff, onset, *tables, start, moved, data)
        return assemble(data, start, moved, self.num_features)

    def _run(self, kernel: Callable[..., int], atoms: Atoms, *arrays: Any) -> None:
        from ampflow.compiled import called

        if called(kernel, *self._place(atoms), *self._tables, self.square, *arrays) != 0:
            raise self._explain(atoms)

    def _place(self, atoms: Atoms) -> tuple[Any, ...]:
        """Return numbers, positions, cell, pbc, cutoff and where neighbours begin to fade."""
        from ampflow.fingerprints.copies import complete_cell

        if len(atoms) == 0:
            raise DataError("the structure has no atoms")
        # Copies, so that the kernel meets one kind of array and is compiled once.
        pbc = np.array(atoms.pbc, dtype=np.bool_)
        return (
            np.array(atoms.numbers, dtype=np.int64),
            np.array(atoms.positions, dtype=np.float64, order="C"),
            complete_cell(np.array(atoms.cell.array, dtype=np.float64, order="C"), pbc),
            pbc,
            self.cutoff,
            self.cutoff - self.switch_width,
        )

    @cached_property
    def _slopes(self) -> Angular:
        return make_slopes(self._multipoles)

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
        for name, values in (("sigmas", self.sigmas), ("orders", self.orders)):
            if not values or len(set(values)) < len(values):
                raise OptionError(f"{name} = {list(values)}: give at least one, each once")
        if not all(0 < sigma < np.inf for sigma in self.sigmas):
            raise OptionError(f"sigmas = {list(self.sigmas)}: each must be above 0 (Å)")
        if not all(0 <= order <= MAX_ORDER for order in self.orders):
            raise OptionError(f"orders = {list(self.orders)}: each must be 0 to {MAX_ORDER}")
        if not 0 < self.cutoff < np.inf:
            raise OptionError(f"cutoff = {self.cutoff}: must be above 0 (Å)")
        if not 0 <= self.switch_width <= self.cutoff:
            raise OptionError(f"switch_width = {self.switch_width}: 0 to the cutoff (Å)")
        if self.normalize not in ("order", "group"):
            raise OptionError(f"normalize = {self.normalize!r}", '"order" or "group"')
        if self.harmonics not in ("solid", "surface"):
            raise OptionError(f"harmonics = {self.harmonics!r}", '"solid" or "surface"')

    def _explain(self, atoms: Atoms) -> DataError:
        """Say why the kernel refused a structure."""
        for number in set(atoms.numbers.tolist()):
            self.densities.of(number)
        if not np.isfinite(atoms.positions).all():
            where = int(np.argmin(np.isfinite(atoms.positions).all(axis=1)))
            return DataError(f"the position of atom {where} is not finite")
        if not np.isfinite(atoms.cell.array).all():
            return DataError("the cell is not finite")
        vectors = atoms.cell.array[atoms.pbc]
        if np.linalg.matrix_rank(vectors) < len(vectors):
            axes = " ".join(name for name, on in zip("abc", atoms.pbc, strict=True) if on)
            return DataError(
                f"periodic along {axes}, but its cell vectors there span no volume: "
                f"{vectors.tolist()}",
                "give the structure a cell, or set its pbc to False",
            )
        return DataError(
            f"the cutoff of {self.cutoff} Å holds too many copies of the {len(atoms)} atoms",
            "check the cell (in Å), or choose a smaller fingerprints.cutoff",
        )

    @property
    def _parameters(self) -> dict[str, Any]:
        return {
            "sigmas": list(self.sigmas),
            "orders": list(self.orders),
            "cutoff": self.cutoff,
            "switch_width": self.switch_width,
            "normalize": self.normalize,
            "harmonics": self.harmonics,
            "square": self.square,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GMP) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._parameters.items())
        return f"GMP({options})"
