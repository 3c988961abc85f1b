"""Looking at a store: is every byte of it as it was written, and what do its columns hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ampflow.errors import StorageError
from ampflow.parts import Part
from ampflow.progress import Progress, silent
from ampflow.store import FingerprintStore

__all__ = ["Damage", "StoreInfo", "column_table", "describe", "verify"]

_RUN = 256  # structures read at a time


@dataclass(frozen=True)
class Damage:
    """Something in a file of a store that is not as it was written.

    Parameters
    ----------
    file
        Delete it and run again, and it is made again.
    what
        Which record, and which structure that is; or what else is wrong.
    """

    file: Path
    what: str


@dataclass(frozen=True)
class StoreInfo:
    """How large a store is.

    Parameters
    ----------
    structures, atoms, features, rejected, shards
        How many.
    size
        Bytes of all its files; other stores may share some of them.
    """

    structures: int
    atoms: int
    features: int
    rejected: int
    shards: int
    size: int


def describe(store: FingerprintStore) -> StoreInfo:
    """Return how large a store is.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    files = [store.path, *(part.path for pair in store.parts for part in pair)]
    try:
        size = sum(path.stat().st_size for path in files)
    except FileNotFoundError as error:
        raise StorageError(f"{error.filename}: no such file", "run again to make it") from None
    return StoreInfo(
        structures=len(store),
        atoms=int(store.index.atoms.sum()),
        features=len(store.header["features"]),
        rejected=len(store.header["rejected"]),
        shards=len(store.parts),
        size=size,
    )


def verify(store: FingerprintStore, progress: Progress = silent) -> list[Damage]:
    """Check every byte of a store's files, and that they belong together.

    Returns
    -------
    list of Damage
        Empty if the store is as it was written.
    """
    try:
        parts, _ = store.parts, store.index
    except StorageError as error:
        return [Damage(store.path, error.what)]
    found: list[Damage] = []
    for number, (structures, fingerprints) in enumerate(parts):
        before = len(found)
        found += _damage(store, number, structures) + _damage(store, number, fingerprints)
        if len(found) == before and not _belong_together(structures, fingerprints):
            what = "its fingerprints are not those of its structures"
            found.append(Damage(fingerprints.path, what))
        structures.close()
        fingerprints.close()
        progress(number + 1, len(parts))
    return found


def _damage(store: FingerprintStore, shard: int, part: Part) -> list[Damage]:
    try:
        rows = part.damaged()
    except StorageError as error:
        return [Damage(part.path, error.what.removeprefix(f"{part.path}: "))]
    return [Damage(part.path, f"record {row}, {_name(store, shard, row)}") for row in rows]


def _name(store: FingerprintStore, shard: int, row: int) -> str:
    """Say which structure a record is."""
    index = store.find(shard, row)
    if index is None:
        return "a structure that is left out, as it occurs before"
    file = store.header["files"][store.index.file_ids[index]]["path"]
    return f"structure {index} of the store, {store.index.file_indices[index]} of {file}"


def _belong_together(structures: Part, fingerprints: Part) -> bool:
    return np.array_equal(structures.offsets, fingerprints.offsets) and np.array_equal(
        structures.column("geometry"), fingerprints.column("geometry")
    )


def column_table(store: FingerprintStore) -> pd.DataFrame:
    """Summarise the columns of a store over all its atoms.

    Returns
    -------
    table
        A row a feature: its name, min, max, mean and std (of the population).
    """
    features = len(store.header["features"])
    count, minima, maxima = 0, np.full(features, np.inf), np.full(features, -np.inf)
    means, sums = np.zeros(features), np.zeros(features)
    for start in range(0, len(store), _RUN):
        values = store.load(np.arange(start, min(start + _RUN, len(store)))).fingerprints
        minima = np.minimum(minima, values.min(axis=0))
        maxima = np.maximum(maxima, values.max(axis=0))
        # Chan, Golub and LeVeque's update: squares of small deviations, not of the values.
        own, total = values.mean(axis=0), count + len(values)
        shift = own - means
        sums = sums + ((values - own) ** 2).sum(axis=0) + shift**2 * count * len(values) / total
        means = means + shift * len(values) / total
        count = total
    return pd.DataFrame(
        {
            "feature": store.header["features"],
            "min": minima,
            "max": maxima,
            "mean": means,
            "std": np.sqrt(sums / count),
        }
    )
