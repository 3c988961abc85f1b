"""The structures of a store with other fingerprints: a store for each descriptor of a search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ampflow.columns import fingerprint_shard, fingerprints_name
from ampflow.errors import StorageError
from ampflow.experiment import Fingerprints
from ampflow.files import read_json, write_json
from ampflow.fingerprinting import make_descriptor, named_store
from ampflow.fingerprints import GMP
from ampflow.parts import Part, write_part
from ampflow.store import FingerprintStore, fingerprints_path, is_whole

__all__ = ["Cost", "describe_store", "described_path", "is_described", "read_cost"]

_TIMED = 12  # structures
_REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """What the fingerprints of a store cost.

    Parameters
    ----------
    store
        Its name.
    features
        Components an atom.
    seconds
        How long making the store took, with all columns that were there already copied.
    ms_per_structure
        CPU time that all of them take for one structure: a mean over 12 structures of the store,
        of each the shortest of 5 times.
    """

    store: str
    features: int
    seconds: float
    ms_per_structure: float


def described_path(base: Path, fingerprints: Fingerprints) -> Path:
    """Name the store with the structures of `base` and these fingerprints.

    Raises
    ------
    OptionError, DataError
        As `make_descriptor`.
    StorageError
        If there is no store at `base`.
    """
    structures = FingerprintStore(base).header["structures"]
    return named_store(base.parent, structures, make_descriptor(fingerprints))


def is_described(path: Path) -> bool:
    """Tell whether a store is there, and what it costs."""
    return read_cost(path) is not None and is_whole(path)


def describe_store(
    base: Path, fingerprints: Fingerprints, between: Callable[[], None] = lambda: None
) -> FingerprintStore:
    """Return the store with the structures of `base`, in their order, and these fingerprints.

    It is made unless it is there: shard after shard, of which those that a killed process had
    finished are there, and columns that another store has of the same structures are copied. What
    they cost is measured, and written beside it.

    Parameters
    ----------
    between
        Called before each shard; what it raises passes through.

    Raises
    ------
    DataError
        If a structure has no fingerprints.
    StorageError
        If a part of `base` is damaged, or the store cannot be written.
    """
    start = time.monotonic()
    path, descriptor = described_path(base, fingerprints), make_descriptor(fingerprints)
    if not is_whole(path):
        _write(path, FingerprintStore(base), descriptor, between, start)
    store = FingerprintStore(path)
    if read_cost(path) is None:
        header = store.header
        taken = _milliseconds(store, descriptor)
        cost = Cost(path.stem, len(header["features"]), round(header["seconds"], 3), taken)
        write_json(_cost_path(path), asdict(cost))
    return store


def _write(
    path: Path, base: FingerprintStore, descriptor: GMP, between: Callable[[], None], start: float
) -> None:
    names, copied = [], 0
    for structures, _ in base.parts:
        between()
        name = fingerprints_name(descriptor, structures)
        copied += fingerprint_shard(
            structures,
            descriptor,
            fingerprints_path(path, name),
            threads=1,  # there is a worker a core
            tick=lambda _: None,
            name_of=lambda row, part=structures: f"{part.path}, record {row}",  # type: ignore[misc]
        )
        names.append([structures.path.stem, name])
        structures.close()
    whole = Part(base.path)
    header = whole.meta | {
        "digest": path.stem,
        "parts": names,
        "descriptor": descriptor.config(whole.meta["elements"]),
        "descriptor_digest": descriptor.digest,
        "features": descriptor.feature_names,
        "reused": copied,
        "seconds": time.monotonic() - start,
    }
    write_part(path, whole.offsets, {}, whole.read(0, len(whole)), header)


def read_cost(path: Path) -> Cost | None:
    """Return what the fingerprints of the store at `path` cost, if it was measured."""
    try:
        return Cost(**read_json(_cost_path(path)))
    except (StorageError, TypeError):
        return None


def _cost_path(store: Path) -> Path:
    return store.with_suffix(".cost.json")


def _milliseconds(store: FingerprintStore, descriptor: GMP) -> float:
    chosen = np.unique(np.linspace(0, len(store) - 1, _TIMED).astype(int))
    structures = [store.image(int(index)).atoms for index in chosen]
    descriptor.compute(structures[0])  # tables are made, code is loaded
    best = np.full(len(structures), np.inf)
    for _ in range(_REPEATS):
        for number, atoms in enumerate(structures):
            start = time.thread_time()  # others may use the core in between
            descriptor.compute(atoms)
            best[number] = min(best[number], time.thread_time() - start)
    return round(1e3 * float(best.mean()), 4)
