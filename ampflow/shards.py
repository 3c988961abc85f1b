"""The structures of a shard as a part: read, checked and kept, so that it is done once.

A part of structures is named by what was read (contents of files, places in them) and the checks.
It does not depend on a descriptor: all of them take the structures from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.fingerprints.placing import Batch
from ampflow.images import Frame, Image, Rejected
from ampflow.parts import PART_SCHEMA, Part, write_part
from ampflow.reading import Checks, read_checked
from ampflow.source import Shard, Source

__all__ = ["batch_of", "is_sound", "read_shard", "rejected_of", "structures_name"]

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
        for found in read_checked(source.files[file], segment, checks):
            usable = [item for item in found if isinstance(item, Image)]
            images += usable
            pieces += [number] * len(usable)
            bad = [item for item in found if isinstance(item, Rejected)]
            rejected += [asdict(item) | {"file": number} for item in bad]
            tick(len(found))
        source.check_unchanged(file)
    write_structures(path, images, pieces, rejected)
    return Part(path)


def is_sound(part: Part) -> bool:
    """Tell whether a part is there, and every row as it was written."""
    try:
        return not part.damaged()
    except StorageError:
        return False
    finally:
        part.close()  # whoever needs it reads it again


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
    frames = [image.frame for image in images]
    offsets = np.cumsum([0, *(len(frame.numbers) for frame in frames)])
    geometries = np.frombuffer(
        bytes.fromhex("".join(image.geometry for image in images)), dtype=np.uint8
    ).reshape(-1, GEOMETRY_BYTES)
    formulas: dict[str, int] = {}
    rows = {
        "cell": _stacked([frame.cell for frame in frames], (3, 3)),
        "pbc": _stacked([frame.pbc for frame in frames], (3,), np.bool_),
        "energy": _stacked([frame.energy for frame in frames], ()),
        "has_forces": _stacked([frame.forces is not None for frame in frames], (), np.bool_),
        "stress": _stacked([frame.filled_stress for frame in frames], (6,)),
        "geometry": geometries,
        "formula": _stacked(
            [formulas.setdefault(f, len(formulas)) for f in map(_formula, frames)], (), np.int32
        ),
        "piece": _stacked(list(pieces), (), np.int32),
        "index": _stacked([image.index for image in images], (), np.int64),
    }
    items = {
        "numbers": np.concatenate([*(frame.numbers for frame in frames), []]).astype(np.uint8),
        "positions": np.concatenate([*(frame.positions for frame in frames), np.empty((0, 3))]),
        "forces": np.concatenate([*(frame.filled_forces for frame in frames), np.empty((0, 3))]),
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


def _formula(frame: Frame) -> str:
    """Return the chemical formula in Hill's order, as ASE's, which takes 0.1 ms for one."""
    counts = Counter(frame.numbers.tolist())
    count = {chemical_symbols[number]: counts[number] for number in counts}
    order = sorted(count, key=lambda symbol: (symbol not in ("C", "H"), symbol))
    return "".join(f"{symbol}{count[symbol] if count[symbol] > 1 else ''}" for symbol in order)


def rejected_of(part: Part, shard: Shard, source: Source) -> list[Rejected]:
    """Return the structures that were left out when a shard was read."""
    return [
        Rejected(**(row | {"file": source.files[shard.pieces[row["file"]][0]]}))
        for row in part.meta["rejected"]
    ]


def batch_of(part: Part, start: int, stop: int) -> Batch:
    """Return the structures in rows `start` to `stop` of a part."""
    record = part.read(start, stop)
    return Batch(
        record["numbers"].astype(np.int64),
        record["positions"],
        part.offsets[start : stop + 1] - part.offsets[start],
        record["cell"],
        record["pbc"],
    )
