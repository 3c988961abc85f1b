"""From files of structures to a finished fingerprint store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest, file_digest
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Data, Fingerprints
from ampflow.files import explain_os_error
from ampflow.fingerprints import GMP
from ampflow.fingerprints.densities import read_densities
from ampflow.images import Image, Rejected, count_images, expand_files, read_images
from ampflow.progress import Progress, silent
from ampflow.store import SCHEMA_VERSION, FingerprintStore, StoreWriter, is_whole, write_store

__all__ = ["Source", "find_source", "fingerprint", "make_descriptor", "store_path"]

# Read in this order: what is in test and in another file is left out of the other one.
_ROLES = {"test_files": "test", "validation_files": "validation", "files": "files"}


@dataclass(frozen=True)
class Source:
    """The files of an experiment, each with its role and the digest of its content."""

    files: list[Path]
    roles: list[str]
    digests: list[str]


def find_source(data: Data) -> Source:
    """Expand the globs of [data] and digest the files.

    A file that validation or test name is left out of a glob of the others.

    Raises
    ------
    DataError
        If a pattern matches nothing, a file has two roles, or none is given to train on.
    StorageError
        If a file cannot be read.
    """
    if not data.files:
        raise DataError("no files of structures are given", "set data.files, or use --data FILE")
    role_of: dict[Path, str] = {}
    files: list[Path] = []
    for option, role in _ROLES.items():
        patterns = getattr(data, option)
        for file in expand_files(patterns):
            other = role_of.setdefault(file.resolve(), role)
            if other == role:
                files.append(file)
            elif str(file) in patterns:
                raise DataError(
                    f"{file}: named in data.{option} and for {other}", "leave it out of one"
                )
    roles = [role_of[file.resolve()] for file in files]
    return Source(files, roles, [_content(file) for file in files])


def _content(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise explain_os_error(error, file) from error


def make_descriptor(options: Fingerprints) -> GMP:
    """Make the descriptor that the options of [fingerprints] describe."""
    return GMP(
        sigmas=options.sigmas,
        orders=options.orders,
        cutoff=options.cutoff,
        switch_width=options.switch_width,
        normalize=options.normalize,
        harmonics=options.harmonics,
        square=options.square,
        densities=read_densities(Path(options.densities)) if options.densities else None,
    )


def store_path(folder: Path, source: Source, data: Data, descriptor: GMP) -> Path:
    """Name the store of `source` after everything that decides its content."""
    checks = (data.on_bad, data.min_distance)
    name = digest("store", SCHEMA_VERSION, source.digests, source.roles, checks, descriptor.digest)
    return folder / f"{name}.lmdb"


def fingerprint(
    source: Source, data: Data, descriptor: GMP, path: Path, progress: Progress = silent
) -> FingerprintStore:
    """Return the store at `path`, which is made unless it exists.

    Structures whose fingerprints are in another store of the same folder, made with the same
    descriptor, are copied from there.

    Raises
    ------
    DataError
        If a structure cannot be used and `data.on_bad` is "error", or none can be used.
    StorageError
        If the store cannot be written.
    """
    if not is_whole(path):
        donors = _Donors(path.parent, descriptor.digest)
        with write_store(path) as writer:
            _fill(writer, source, data, descriptor, donors, path.stem, progress)
    return FingerprintStore(path)


def _fill(
    writer: StoreWriter,
    source: Source,
    data: Data,
    descriptor: GMP,
    donors: _Donors,
    name: str,
    progress: Progress,
) -> None:
    start = time.monotonic()
    total = count_images(source.files)
    file_ids = {file: number for number, file in enumerate(source.files)}
    rejected: list[Rejected] = []
    elements: set[int] = set()
    reused = 0
    for done, item in enumerate(_usable(source, data, descriptor, rejected), 1):
        found = donors.fingerprints(item.geometry)
        reused += found is not None
        elements.update(item.atoms.numbers.tolist())
        writer.append(
            item, descriptor.compute(item.atoms) if found is None else found, file_ids[item.file]
        )
        progress(done + len(rejected), total, f"{reused} reused" if reused else "")
    if len(writer) == 0:
        raise DataError("no structure can be used", _summary(rejected))
    for file, content in zip(source.files, source.digests, strict=True):
        if _content(file) != content:
            raise DataError(f"{file}: it changed while it was read", "run again when it is done")
    writer.finish(
        {
            "digest": name,
            "files": [
                {"path": str(path), "role": role, "digest": content}
                for path, role, content in zip(
                    source.files, source.roles, source.digests, strict=True
                )
            ],
            "rejected": [asdict(item) | {"file": str(item.file)} for item in rejected],
            "reused": reused,
            "seconds": time.monotonic() - start,
            "elements": sorted(elements),
            "features": descriptor.feature_names,
            "descriptor": descriptor.config(sorted(elements)),
            "descriptor_digest": descriptor.digest,
        }
    )


def _usable(
    source: Source, data: Data, descriptor: GMP, rejected: list[Rejected]
) -> Iterator[Image]:
    """Read the images that can be used, putting the others into `rejected`."""
    known = frozenset(descriptor.densities.elements)
    for item in read_images(source.files, min_distance=data.min_distance, known=known):
        if isinstance(item, Image):
            yield item
        elif item.duplicate or data.on_bad == "skip":
            rejected.append(item)
        else:
            raise item.error()


def _summary(rejected: list[Rejected]) -> str:
    if not rejected:
        return ""
    first = rejected[0]
    where = f"{first.file}, structure {first.index}"
    return f"look at the first of the {len(rejected)} left out: {where}: {first.reason}"


class _Donors:
    """Finished stores of the same descriptor, searched by geometry."""

    def __init__(self, folder: Path, descriptor_digest: str) -> None:
        self._where: dict[str, tuple[FingerprintStore, int]] = {}
        for path in filter(is_whole, sorted(folder.glob("*.lmdb"))):
            store = FingerprintStore(path)
            if store.header["descriptor_digest"] == descriptor_digest:
                for index, geometry in enumerate(store.index.geometries.tolist()):
                    self._where[geometry] = (store, index)

    def fingerprints(self, geometry: str) -> NDArray[np.float64] | None:
        store, index = self._where.get(geometry, (None, 0))
        try:
            return None if store is None else store.fingerprints(index)
        except StorageError:  # a damaged record is no record
            return None
