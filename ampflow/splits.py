"""Dividing structures into train, validation and test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from ase.formula import Formula
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Split
from ampflow.files import read_json, write_json
from ampflow.store import FingerprintStore, Index

__all__ = [
    "PARTS",
    "Splits",
    "ensure_splits",
    "make_splits",
    "split_is_whole",
    "split_seconds",
    "splits_digest",
]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets of structures, by their index in the store, ascending.

    Raises
    ------
    DataError
        If a structure is in two parts, or a part is empty.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def __post_init__(self) -> None:
        joined = np.concatenate([self.train, self.validation, self.test])
        if len(np.unique(joined)) < len(joined):
            raise DataError("the parts of the split are not disjoint")
        for name in PARTS:
            if len(getattr(self, name)) == 0:
                raise DataError(
                    f"the {name} part of the split is empty ({len(joined)} structures in all)",
                    f"give more structures, or a larger split.{name}",
                )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that `write` made."""
        parts = read_json(path)
        return cls(**{name: np.array(parts[name], dtype=np.int64) for name in PARTS})

    def write(self, path: Path, seconds: float = 0.0) -> None:
        """Write the parts, and how long it took to make them, as JSON, atomically."""
        parts = {name: getattr(self, name).tolist() for name in PARTS}
        write_json(path, parts | {"seconds": seconds})


def splits_digest(structures: str, options: Split, seed: int) -> str:
    """Name the split of the stores of some structures, which all descriptors share."""
    return digest("split", 1, structures, options.model_dump(), seed)


def ensure_splits(store: FingerprintStore, options: Split, seed: int, path: Path) -> Splits:
    """Return the split that `path` is named after, which is made unless it exists."""
    if not split_is_whole(path):
        start = time.monotonic()
        roles = [file["role"] for file in store.header["files"]]
        splits = make_splits(store.index, roles, options, seed)
        splits.write(path, time.monotonic() - start)
    return Splits.read(path)


def split_is_whole(path: Path) -> bool:
    """Tell whether a split is there and can be read."""
    try:
        return len(Splits.read(path).train) > 0 and split_seconds(path) >= 0
    except (StorageError, DataError, KeyError, TypeError, ValueError):
        return False


def split_seconds(path: Path) -> float:
    """Return how long it took to make the split in a file."""
    return float(read_json(path)["seconds"])


def make_splits(index: Index, roles: list[str], options: Split, seed: int) -> Splits:
    """Divide the structures of a store.

    Structures of a file whose role is "validation" or "test" are that part; the others are
    divided by the shares of the parts that have no file. Structures with the same geometry
    are always in the same part, and the shares are met as nearly as that allows.

    Parameters
    ----------
    index
        The store's index.
    roles
        "files", "validation" or "test" of each of the store's files.
    options
        Strategy and shares.
    seed
        Of the shuffling.
    """
    role = np.array(roles)[index.file_ids]
    given = {part: np.flatnonzero(role == part) for part in PARTS[1:] if part in roles}
    shares = {part: getattr(options, part) for part in PARTS if part not in given}
    pool = np.flatnonzero(role == "files")
    strata = index.formula_ids[pool] if options.strategy == "stratified" else np.zeros(len(pool))
    elements = [frozenset(Formula(formula).count()) for formula in index.formulas]
    elements_of = [elements[number] for number in index.formula_ids[pool]]
    drawn = _divide(index.geometries[pool], strata, elements_of, list(shares.values()), seed)
    parts = given | {part: pool[chosen] for part, chosen in zip(shares, drawn, strict=True)}
    return Splits(**{part: np.sort(parts[part]) for part in PARTS})


def _divide(
    geometries: NDArray[np.str_],
    strata: NDArray[np.generic],
    elements: list[frozenset[str]],
    shares: list[float],
    seed: int,
) -> list[NDArray[np.int64]]:
    """Divide groups of equal geometry by `shares`, keeping the proportions within each stratum.

    The groups are shuffled and laid on a line stratum by stratum; each goes to the part that is
    furthest behind its share so far, or to train (the first) if that lacks one of its elements.
    Every stratum, however small, is thus spread over the parts as evenly as rounding lets it,
    and so is the whole.
    """
    random = np.random.default_rng(seed)
    _, first, group = np.unique(geometries, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    order = random.permutation(len(first))
    order = order[np.argsort(strata[first[order]], kind="stable")]
    wanted = np.array(shares) / sum(shares)
    counts = np.zeros(len(shares))
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    trained: set[str] = set()
    for chosen in order:
        indices = members[chosen]
        behind = wanted * (counts.sum() + len(indices)) - counts
        part = int(np.argmax(behind)) if elements[indices[0]] <= trained else 0
        if part == 0:
            trained |= elements[indices[0]]
        parts[part].append(indices)
        counts[part] += len(indices)
    return [np.concatenate(part) if part else np.empty(0, dtype=np.int64) for part in parts]
