"""The fingerprints of a shard as a part, computed only as far as nobody did before.

A part of fingerprints is `KIND/DESCRIPTOR/GEOMETRIES`: named by the descriptor and by the
geometries of its structures, whatever their energies, files or places. KIND is what descriptors
that share columns have in common: all but their orders and sigmas. So of a part that is missing,
rows with known geometries are copied from the parts in its folder, and columns from parts of the
same name in the folders beside it. The rest is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import DataError, StorageError
from ampflow.fingerprints import GMP
from ampflow.fingerprints.gmp import KERNEL_VERSION
from ampflow.parts import Part, write_part
from ampflow.shards import batch_of, is_sound

__all__ = ["fingerprint_shard", "fingerprints_name"]

_CHUNK = 16  # structures that a thread computes at a time
_OWN = ("sigmas", "orders", "densities")  # of a descriptor's configuration, not of its kind


def fingerprints_name(descriptor: GMP, structures: Part) -> str:
    """Name the part of the fingerprints of some structures, in its folder."""
    kind = {key: value for key, value in descriptor.config([]).items() if key not in _OWN}
    folder = digest("kind", kind, descriptor.densities.digest, KERNEL_VERSION)
    return f"{folder}/{descriptor.digest}/{structures.meta['geometries']}"


def fingerprint_shard(
    structures: Part,
    descriptor: GMP,
    path: Path,
    threads: int,
    tick: Callable[[int], None],
    name_of: Callable[[int], str],
) -> int:
    """Make the fingerprints of a shard's structures, unless `path` has them.

    Parameters
    ----------
    tick
        Called with how many more structures have fingerprints.
    name_of
        Says which structure a row is, for errors.

    Returns
    -------
    copied
        How many structures had their fingerprints already, all columns of them.

    Raises
    ------
    DataError
        If a structure has no fingerprints.
    StorageError
        If the part cannot be written, or the structures are damaged.
    """
    if is_sound(Part(path)):
        tick(len(structures))
        return len(structures)
    values = np.empty((int(structures.offsets[-1]), descriptor.num_features))
    rows = _copy_rows(structures, values, path)
    copied = len(structures) - len(rows)
    tick(copied)
    columns = _copy_columns(values, descriptor.feature_names, path)
    if columns:
        own = [descriptor.feature_names.index(name) for name in columns]
        compute = _computer(structures, _only(descriptor, columns), columns, name_of)
        with ThreadPoolExecutor(threads) as pool:  # the kernel releases Python's lock
            runs = _runs(rows)
            for (begin, end), found in zip(runs, pool.map(compute, runs), strict=True):
                values[structures.offsets[begin] : structures.offsets[end], own] = found
                tick(end - begin)
    meta = {"kind": "fingerprints", "features": descriptor.feature_names}
    geometry = structures.column("geometry")
    write_part(path, structures.offsets, {"geometry": geometry}, {"values": values}, meta)
    return copied


def _copy_rows(structures: Part, values: NDArray[np.float64], path: Path) -> NDArray[np.int64]:
    """Copy fingerprints of equal geometries from parts of the same descriptor.

    Returns
    -------
    missing
        Rows that are in none of them.
    """
    wanted = _keys(structures.column("geometry"))
    missing = np.arange(len(structures))
    for donor in _others(path, path.parent.glob("*.lmdb")):
        theirs = _keys(donor.column("geometry"))
        order = np.argsort(theirs)
        places = np.searchsorted(theirs, wanted[missing], sorter=order).clip(max=len(theirs) - 1)
        rows = order[places]
        known = theirs[rows] == wanted[missing]
        done = [
            own
            for own, row in zip(missing[known], rows[known], strict=True)
            if _copy_row(structures, int(own), donor, int(row), values)
        ]
        missing = np.setdiff1d(missing, done)
    return missing


def _copy_row(
    structures: Part, own: int, donor: Part, row: int, values: NDArray[np.float64]
) -> bool:
    try:
        found = donor.read(row, row + 1)["values"]
    except StorageError:  # a damaged row is no row
        return False
    values[structures.offsets[own] : structures.offsets[own + 1]] = found
    return True


def _copy_columns(values: NDArray[np.float64], features: Sequence[str], path: Path) -> list[str]:
    """Copy columns from parts of the same structures and kind; return those in none of them."""
    missing = list(features)
    for donor in _others(path, path.parent.parent.glob(f"*/{path.name}")):
        theirs = {name: column for column, name in enumerate(donor.meta["features"])}
        shared = [name for name in missing if name in theirs]
        if not shared:
            continue
        try:
            found = donor.read(0, len(donor))["values"]
        except StorageError:
            continue
        own = [features.index(name) for name in shared]
        values[:, own] = found[:, [theirs[name] for name in shared]]
        missing = [name for name in missing if name not in theirs]
    return missing


def _others(path: Path, candidates: Iterable[Path]) -> Iterator[Part]:
    for candidate in sorted(candidates):
        if candidate != path:
            part = Part(candidate)
            try:
                usable = len(part) > 0
            except StorageError:
                continue
            if usable:
                yield part
                part.close()


def _keys(geometries: NDArray[np.uint8]) -> NDArray[np.void]:
    return np.ascontiguousarray(geometries).view(f"V{geometries.shape[1]}").ravel()


def _only(descriptor: GMP, columns: Sequence[str]) -> GMP:
    """Return the smallest descriptor of the same kind that has all of `columns`."""
    if len(columns) == descriptor.num_features:
        return descriptor
    sigmas: dict[int, list[float]] = {}
    for order, widths in descriptor.sigmas.items():
        mine = re.compile(rf"order{order}(-.*)?-sigma(.*)")
        found = {match[2] for match in map(mine.fullmatch, columns) if match}
        if found:
            sigmas[order] = [sigma for sigma in widths if str(sigma) in found]
    return GMP.from_config(descriptor.config() | {"orders": list(sigmas), "sigmas": sigmas})


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut rows into runs that lie together, none longer than a chunk."""
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    return [
        (int(run[begin]), int(run[min(begin + _CHUNK, len(run)) - 1]) + 1)
        for run in np.split(rows, ends)
        for begin in range(0, len(run), _CHUNK)
    ]


def _computer(
    structures: Part, descriptor: GMP, columns: Sequence[str], name_of: Callable[[int], str]
) -> Callable[[tuple[int, int]], NDArray[np.float64]]:
    """Return what computes `columns` of a run of rows: (atoms, columns)."""
    theirs = [descriptor.feature_names.index(name) for name in columns]
    whole = theirs == list(range(descriptor.num_features))

    def compute(run: tuple[int, int]) -> NDArray[np.float64]:
        try:
            found = descriptor.compute_batch(batch_of(structures, *run))
        except DataError as error:
            if run[1] - run[0] > 1:  # one of them: which?
                return np.concatenate([compute((row, row + 1)) for row in range(*run)])
            raise DataError(f"{name_of(run[0])}: {error.what}", error.hint) from error
        return found if whole else found[:, theirs]

    return compute
