"""GMP fingerprints as a transformer of scikit-learn: structures in, a table out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import DataError, OptionError
from ampflow.fingerprints.gmp import GMP

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["GMPTransformer"]

_POOLS = {"sum": np.sum, "mean": np.mean}


class GMPTransformer:
    """Turn structures into one row each: the sum or mean of their atoms' fingerprints.

    Scikit-learn's estimators want one row a structure. A sum grows with the structure, as its
    energy does; a mean does not. For rows of atoms call `GMP.compute` itself.

    Behaves as a transformer in pipelines, grid searches and `clone`, and does not import
    scikit-learn.

    Parameters
    ----------
    descriptor
        What to compute.
    pool
        "sum" or "mean", over the atoms of a structure.
    """

    def __init__(self, descriptor: GMP, pool: Literal["sum", "mean"] = "sum") -> None:
        # Kept as they are and checked later, as scikit-learn's `clone` demands.
        self.descriptor = descriptor
        self.pool = pool

    def fit(self, structures: Iterable[Atoms], y: object = None) -> Self:
        """Learn nothing: a descriptor is given.

        Raises
        ------
        OptionError
            If `pool` is neither "sum" nor "mean".
        """
        self._pool()
        return self

    def transform(self, structures: Iterable[Atoms]) -> NDArray[np.float64]:
        """Return (n_structures, n_features), float64.

        Raises
        ------
        DataError
            As `GMP.compute`, saying which structure it is.
        OptionError
            If `pool` is neither "sum" nor "mean".
        """
        pool = self._pool()
        rows = []
        for index, atoms in enumerate(structures):
            try:
                rows.append(pool(self.descriptor.compute(atoms), axis=0))
            except DataError as error:
                raise DataError(f"structure {index}: {error.what}", error.hint) from error
        return np.array(rows).reshape(-1, self.descriptor.num_features)

    def fit_transform(self, structures: Iterable[Atoms], y: object = None) -> NDArray[np.float64]:
        """Return `fit(structures).transform(structures)`."""
        return self.fit(structures).transform(structures)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Name the columns."""
        names = [f"{self.pool}-{name}" for name in self.descriptor.feature_names]
        return np.array(names, dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {"descriptor": self.descriptor, "pool": self.pool}

    def set_params(self, **params: Any) -> Self:
        """Change parameters by name.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"no such parameter: {name}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        # Asked for by scikit-learn itself, from 1.6 on.
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            requires_fit=False,
        )

    def __repr__(self) -> str:
        return f"GMPTransformer({self.descriptor!r}, pool={self.pool!r})"

    def _pool(self) -> Any:
        if self.pool not in _POOLS:
            raise OptionError(f"pool = {self.pool!r}", "sum or mean")
        return _POOLS[self.pool]
