"""Joining shards to one store: the index of all structures, each geometry once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import DataError, StorageError
from ampflow.fingerprints import GMP
from ampflow.images import Rejected
from ampflow.parts import Part, write_part
from ampflow.shards import rejected_of
from ampflow.source import Shard, Source
from ampflow.store import fingerprints_path

__all__ = ["JoinedShard", "find_repeated", "join_shards"]


@dataclass(frozen=True)
class JoinedShard:
    """A shard, the part of its structures, and the name of the part of its fingerprints."""

    shard: Shard
    structures: Part
    fingerprints: str


def join_shards(
    path: Path,
    source: Source,
    shards: Sequence[JoinedShard],
    descriptor: GMP,
    header: Mapping[str, Any],
    *,
    skip: bool,
) -> None:
    """Write the store whose parts are `shards`. Of equal structures the first is in it.

    Parameters
    ----------
    header
        What else to write into the store's header.
    skip
        Leave out the second of two structures that are equal but for their energies; otherwise
        that is an error.

    Raises
    ------
    DataError
        If no structure can be used, or one has two energies.
    StorageError
        If a part is gone, or the store cannot be written.
    """
    rejected = [item for one in shards for item in rejected_of(one.structures, one.shard, source)]
    rows, formulas = _gather(shards)
    kept, repeated = find_repeated(rows, source.files)
    if not skip and (bad := [item for item in repeated if not item.duplicate]):
        raise bad[0].error()
    order = {file: number for number, file in enumerate(source.files)}
    rejected = sorted([*rejected, *repeated], key=lambda item: (order[item.file], item.index))
    if not kept.any():
        raise DataError("no structure can be used", _summary(rejected))
    for one in shards:
        part = Part(fingerprints_path(path, one.fingerprints))
        if len(part) != len(one.structures):
            raise StorageError(f"{part.path}: not of these structures", "delete it and run again")
    elements = sorted({number for one in shards for number in one.structures.meta["elements"]})
    whole = {
        "kind": "store",
        "files": [
            {"path": str(file), "role": role, "digest": content}
            for file, role, content in zip(source.files, source.roles, source.digests, strict=True)
        ],
        "rejected": [asdict(item) | {"file": str(item.file)} for item in rejected],
        "parts": [[one.structures.path.stem, one.fingerprints] for one in shards],
        "elements": elements,
        "formulas": formulas,
        "descriptor": descriptor.config(elements),
    }
    index = {name: array[kept] for name, array in rows.items()}
    write_part(path, np.array([0, kept.sum()]), {}, index, whole | dict(header))


def _gather(shards: Sequence[JoinedShard]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return what is known of all structures, shard after shard, and the distinct formulas."""
    formulas: dict[str, int] = {}
    columns: dict[str, list[NDArray[Any]]] = {}
    for number, one in enumerate(shards):
        part = one.structures
        ids = np.array(
            [formulas.setdefault(f, len(formulas)) for f in part.meta["formulas"]], dtype=np.int32
        )
        files = np.array([file for file, _ in one.shard.pieces], dtype=np.int32)
        found = {
            "atoms": np.diff(part.offsets),
            "energies": part.column("energy"),
            "geometries": part.column("geometry"),
            "formula_ids": ids[part.column("formula")],
            "file_ids": files[part.column("piece")],
            "file_indices": part.column("index"),
            "parts": np.full(len(part), number, dtype=np.int32),
            "rows": np.arange(len(part), dtype=np.int32),
        }
        for name, array in found.items():
            columns.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in columns.items()}, list(formulas)


def find_repeated(
    rows: Mapping[str, NDArray[Any]], files: Sequence[Path]
) -> tuple[NDArray[np.bool_], list[Rejected]]:
    """Find structures with the geometry of an earlier one.

    Parameters
    ----------
    rows
        `geometries` (structures, bytes), `energies` in eV, `file_ids` and `file_indices`.
    files
        What the file ids mean.

    Returns
    -------
    kept, repeated
        (structures,) whether each is the first of its kind, and those that are not.
    """
    raw = np.ascontiguousarray(rows["geometries"])
    if not len(raw):
        return np.zeros(0, dtype=np.bool_), []
    keys = raw.view(f"V{raw.shape[1]}").ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    earlier = first[group]
    kept = earlier == np.arange(len(raw))
    again = np.flatnonzero(~kept).tolist()
    return kept, [_repeated(rows, files, row, int(earlier[row])) for row in again]


def _repeated(
    rows: Mapping[str, NDArray[Any]], files: Sequence[Path], row: int, earlier: int
) -> Rejected:
    file, index, energy = (rows[name][row] for name in ("file_ids", "file_indices", "energies"))
    same = (
        f"the same as structure {rows['file_indices'][earlier]} "
        f"of {files[rows['file_ids'][earlier]]}"
    )
    before = rows["energies"][earlier]
    if before == energy:
        return Rejected(files[file], int(index), f"{same} (kept once)", duplicate=True)
    why = f"{same}, but with another energy ({energy:.6f} instead of {before:.6f} eV)"
    return Rejected(files[file], int(index), why)


def _summary(rejected: list[Rejected]) -> str:
    if not rejected:
        return ""
    first = rejected[0]
    where = f"{first.file}, structure {first.index}"
    return f"look at the first of the {len(rejected)} left out: {where}: {first.reason}"
