"""The structures of a shard as a part: read, checked and kept, so that it is done once.

A part of structures is named by what was read (contents of files, places in them) and the checks.
It does not depend on a descriptor: all of them take the structures from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.images import Image, Rejected, check_image
from ampflow.parts import PART_SCHEMA, Part, write_part
from ampflow.reading import read_segment
from ampflow.source import Shard, Source

__all__ = ["Checks", "atoms_of", "is_sound", "read_shard", "rejected_of", "structures_name"]

Checks = tuple[float, frozenset[int]]
"""The smallest distance between atoms (Å), and the atomic numbers that have a density."""

GEOMETRY_BYTES = 10


def structures_name(source: Source, shard: Shard, checks: Checks) -> str:
    """Name the part of a shard's structures after everything that decides its content."""
    pieces = [(source.digests[file], piece.start, piece.stop) for file, piece in shard.pieces]
    # Another version of ASE may read what this one cannot.
    limits = (checks[0], sorted(checks[1]), ase.__version__)
    return digest("structures", PART_SCHEMA, pieces, limits)


def read_shard(
    source: Source, shard: Shard, checks: Checks, path: Path, tick: Callable[[int], None]
) -> Part:
    """Return a shard's structures, which are read unless `path` has them.

    Parameters
    ----------
    tick
        Called with how many more structures were read.

    Raises
    ------
    DataError
        If a file is no longer what was digested.
    StorageError
        If a file cannot be read, or the part not be written.
    """
    part = Part(path)
    if is_sound(part):
        tick(len(part) + len(part.meta["rejected"]))
        return part
    images: list[Image] = []
    rejected: list[dict[str, Any]] = []
    pieces: list[int] = []
    for number, (file, segment) in enumerate(shard.pieces):
        for index, item in read_segment(source.files[file], segment):
            if isinstance(item, Rejected):
                found: Image | Rejected = item
            else:
                found = check_image(item, source.files[file], index, *checks)
            if isinstance(found, Image):
                images.append(found)
                pieces.append(number)
            else:
                rejected.append(asdict(found) | {"file": number})
            tick(1)
        source.check_unchanged(file)
    write_structures(path, images, pieces, rejected)
    return Part(path)


def is_sound(part: Part) -> bool:
    """Tell whether a part is there, and every row as it was written."""
    try:
        return not part.damaged()
    except StorageError:
        part.close()
        return False


def write_structures(
    path: Path, images: list[Image], pieces: Iterable[int], rejected: list[dict[str, Any]]
) -> None:
    """Write structures as a part.

    Parameters
    ----------
    pieces
        The piece of the shard that each is of.
    rejected
        Structures that were left out, with the number of the piece as their file.
    """
    offsets = np.concatenate([[0], np.cumsum([len(image.atoms) for image in images])])
    geometries = np.frombuffer(
        bytes.fromhex("".join(image.geometry for image in images)), dtype=np.uint8
    ).reshape(-1, GEOMETRY_BYTES)
    formulas: dict[str, int] = {}
    rows = {
        "cell": _stacked([np.asarray(image.atoms.cell) for image in images], (3, 3)),
        "pbc": _stacked([image.atoms.pbc for image in images], (3,), np.bool_),
        "energy": _stacked([image.energy for image in images], ()),
        "has_forces": _stacked([image.forces is not None for image in images], (), np.bool_),
        "geometry": geometries,
        "formula": _stacked(
            [formulas.setdefault(f, len(formulas)) for f in _formulas(images)], (), np.int32
        ),
        "piece": _stacked(list(pieces), (), np.int32),
        "index": _stacked([image.index for image in images], (), np.int64),
    }
    numbers = [image.atoms.numbers for image in images]
    items = {
        "numbers": np.concatenate([*numbers, []]).astype(np.uint8),
        "positions": np.concatenate([*(x.atoms.positions for x in images), np.empty((0, 3))]),
        "forces": np.concatenate([*map(_forces, images), np.empty((0, 3))]),
    }
    meta = {
        "kind": "structures",
        "geometries": digest(geometries),
        "elements": sorted(np.unique(items["numbers"]).tolist()),
        "formulas": list(formulas),
        "rejected": rejected,
    }
    write_part(path, offsets, rows, items, meta)


def _stacked(values: list[Any], shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    return np.array(values, dtype=dtype).reshape(-1, *shape)


def _forces(image: Image) -> NDArray[np.float64]:
    return np.full((len(image.atoms), 3), np.nan) if image.forces is None else image.forces


def _formulas(images: list[Image]) -> list[str]:
    """Return chemical formulas in Hill's order, as ASE's, which takes 0.1 ms for one."""
    return [_formula(np.bincount(image.atoms.numbers)) for image in images]


def _formula(counts: NDArray[np.int64]) -> str:
    count = {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}
    order = sorted(count, key=lambda symbol: (symbol not in ("C", "H"), symbol))
    return "".join(f"{symbol}{count[symbol] if count[symbol] > 1 else ''}" for symbol in order)


def rejected_of(part: Part, shard: Shard, source: Source) -> list[Rejected]:
    """Return the structures that were left out when a shard was read."""
    return [
        Rejected(**(row | {"file": source.files[shard.pieces[row["file"]][0]]}))
        for row in part.meta["rejected"]
    ]


def atoms_of(part: Part, start: int, stop: int) -> list[Atoms]:
    """Return the structures in rows `start` to `stop` of a part, without labels."""
    record = part.read(start, stop)
    edges = part.offsets[start : stop + 1] - part.offsets[start]
    return [
        Atoms(
            numbers=record["numbers"][a:b],  # not as symbols: ASE would look at each
            positions=record["positions"][a:b],
            cell=record["cell"][row],
            pbc=record["pbc"][row],
        )
        for row, (a, b) in enumerate(pairwise(edges))
    ]
