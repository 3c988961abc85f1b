"""From files of structures to a finished fingerprint store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ampflow.columns import fingerprint_shard, fingerprints_name
from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.experiment import Data, Fingerprints, Spaced
from ampflow.fingerprints import GMP
from ampflow.fingerprints.densities import read_densities
from ampflow.joining import JoinedShard, join_shards
from ampflow.parts import PART_SCHEMA, Part
from ampflow.progress import Pace, Progress, silent
from ampflow.reading import Checks
from ampflow.shards import read_shard, rejected_of, structures_name
from ampflow.source import Shard, Source, count_structures, find_source
from ampflow.store import FingerprintStore, fingerprints_path, is_whole, structures_path

__all__ = [
    "MadeShard",
    "Source",
    "StoreJob",
    "find_source",
    "fingerprint",
    "make_descriptor",
    "make_store",
    "named_store",
    "store_path",
    "structures_digest",
]


def make_descriptor(options: Fingerprints) -> GMP:
    """Make the descriptor that the options of [fingerprints] describe.

    Raises
    ------
    OptionError
        If options do not fit each other, as sigmas for an order that there is not.
    DataError
        If the folder of densities cannot be read.
    """
    orders = list(range(options.orders + 1)) if isinstance(options.orders, int) else options.orders
    widths = options.sigmas.widths() if isinstance(options.sigmas, Spaced) else options.sigmas
    return GMP(
        sigmas={**dict.fromkeys(orders, widths), **options.order_sigmas},
        orders=orders,
        cutoff=options.cutoff,
        switch_width=options.switch_width,
        normalize=options.normalize,
        harmonics=options.harmonics,
        rs=options.rs,
        rs_setup=options.rs_setup,
        square=options.square,
        densities=read_densities(Path(options.densities)) if options.densities else None,
    )


def structures_digest(source: Source, data: Data, descriptor: GMP) -> str:
    """Name the structures of a store: the same for all descriptors with the same elements.

    Stores with the same structures have them in the same order.
    """
    checks = (data.on_bad, data.min_distance, sorted(descriptor.densities.elements))
    return digest("structures", PART_SCHEMA, source.digests, source.roles, checks)


def store_path(folder: Path, source: Source, data: Data, descriptor: GMP) -> Path:
    """Name the store of `source` after everything that decides its content."""
    return named_store(folder, structures_digest(source, data, descriptor), descriptor)


def named_store(folder: Path, structures: str, descriptor: GMP) -> Path:
    """Name the store of some structures, of which `structures` is the digest."""
    return folder / f"{digest('store', structures, descriptor.digest)}.lmdb"


@dataclass(frozen=True)
class MadeShard:
    """What was done for a shard.

    Parameters
    ----------
    structures, rejected
        How many can be used, and how many cannot.
    copied
        How many of them had their fingerprints already.
    seconds
        How long it took.
    """

    structures: int
    rejected: int
    copied: int
    seconds: float


@dataclass(frozen=True)
class StoreJob:
    """A store that is to be made: shards in any order, by any process, and then joined.

    Parameters
    ----------
    source, data, descriptor
        What it is made of.
    path
        Where the store will be, named by `store_path`; its parts lie in the same folder.
    """

    source: Source
    data: Data
    descriptor: GMP
    path: Path

    @property
    def checks(self) -> Checks:
        """What decides whether a structure can be used."""
        return self.data.min_distance, frozenset(self.descriptor.densities.elements)

    def make(
        self, shard: Shard, threads: int = 1, tick: Callable[[float], None] = lambda _: None
    ) -> MadeShard:
        """Make the parts of a shard, as far as they are not there.

        Parameters
        ----------
        threads
            That compute at the same time. Reading has one.
        tick
            Called with how many more structures are done.

        Raises
        ------
        DataError
            If a structure cannot be used and `data.on_bad` is "error".
        StorageError
            If a file cannot be read, or a part not be written.
        """

        def half(count: int) -> None:
            tick(count / 2)  # the other half is to be fingerprinted

        start = time.monotonic()
        path = self.structures(shard).path
        read = read_shard(self.source, shard, self.checks, path, half)
        rejected = rejected_of(read, shard, self.source)
        if rejected and self.data.on_bad == "error":
            raise rejected[0].error()
        path = fingerprints_path(self.path, fingerprints_name(self.descriptor, read))

        def name_of(row: int) -> str:
            piece, index = read.column("piece")[row], read.column("index")[row]
            return f"{self.source.files[shard.pieces[piece][0]]}, structure {index}"

        half(len(rejected))
        copied = fingerprint_shard(read, self.descriptor, path, threads, half, name_of)
        made = MadeShard(len(read), len(rejected), copied, time.monotonic() - start)
        read.close()
        return made

    def is_made(self, shard: Shard) -> bool:
        """Tell whether the parts of a shard are there, without looking at each byte."""
        structures = self.structures(shard)
        try:
            name = fingerprints_name(self.descriptor, structures)
            return len(Part(fingerprints_path(self.path, name))) == len(structures)
        except StorageError:
            return False

    def structures(self, shard: Shard) -> Part:
        """Return the part of a shard's structures, whether it is there or not."""
        return Part(structures_path(self.path, structures_name(self.source, shard, self.checks)))

    def join(
        self, shards: Sequence[Shard], made: Sequence[MadeShard], seconds: float
    ) -> FingerprintStore:
        """Join the shards, all of which were made, to one store.

        Raises
        ------
        DataError
            If no structure can be used, or one occurs with two energies and `data.on_bad` is
            "error".
        StorageError
            If a part is gone, or the store cannot be written.
        """
        parts = [self.structures(shard) for shard in shards]
        names = [fingerprints_name(self.descriptor, part) for part in parts]
        join_shards(
            self.path,
            self.source,
            [JoinedShard(*found) for found in zip(shards, parts, names, strict=True)],
            self.descriptor,
            skip=self.data.on_bad == "skip",
            header={
                "digest": self.path.stem,
                "structures": structures_digest(self.source, self.data, self.descriptor),
                "reused": sum(shard.copied for shard in made),
                "seconds": seconds,
                "features": self.descriptor.feature_names,
                "descriptor_digest": self.descriptor.digest,
            },
        )
        return FingerprintStore(self.path)


def fingerprint(
    source: Source,
    data: Data,
    descriptor: GMP,
    path: Path,
    progress: Progress = silent,
    threads: int = 0,
) -> FingerprintStore:
    """Return the store at `path`, which is made unless it exists; see `make_store`."""
    if is_whole(path):
        return FingerprintStore(path)
    return make_store(StoreJob(source, data, descriptor, path), progress, threads)


def make_store(
    job: StoreJob,
    progress: Progress = silent,
    threads: int = 0,
    made: Mapping[Shard, MadeShard] | None = None,
) -> FingerprintStore:
    """Make a store here, shard by shard.

    What a run that was killed had finished is not done again; nor what other stores of the same
    folder have.

    Parameters
    ----------
    threads
        That compute at the same time; 0: one a core.
    made
        Shards that were made elsewhere.

    Raises
    ------
    DataError
        If a structure cannot be used and `data.on_bad` is "error", or none can be used.
    StorageError
        If a file cannot be read, or the store not be written.
    """
    start = time.monotonic()
    shards = job.source.shards()
    pace = Pace(progress, count_structures(shards), "structures")
    threads = threads or len(os.sched_getaffinity(0))
    finished = []
    for shard in shards:
        found = (made or {}).get(shard)
        if found is None:
            found = job.make(shard, threads, pace.advance)
        else:
            pace.advance(found.structures + found.rejected)
        finished.append(found)
    seconds = sum(shard.seconds for shard in (made or {}).values()) + time.monotonic() - start
    return job.join(shards, finished, seconds)
