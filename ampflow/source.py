"""The files of an experiment, and how they are cut into shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ampflow.digests import file_digest
from ampflow.errors import DataError
from ampflow.experiment import Data
from ampflow.files import explain_os_error
from ampflow.reading import Segment, cut_file, expand_files

__all__ = ["Shard", "Source", "count_structures", "find_source"]

# Read in this order: what is in test and in another file is left out of the other one.
_ROLES = {"test_files": "test", "validation_files": "validation", "files": "files"}

_MOST = 4096  # structures of a shard
_MOST_BYTES = 1 << 24  # of a shard's files: 3,000 structures of 73 atoms in ASE's trajectories


@dataclass(frozen=True)
class Shard:
    """Structures that are read and fingerprinted together: a few seconds of work, mostly.

    Parameters
    ----------
    pieces
        Segments of files, each with the file's number in the source.
    """

    pieces: tuple[tuple[int, Segment], ...]

    @property
    def structures(self) -> int | None:
        """How many, if that is known before they are read."""
        counts = [piece.stop - piece.start for _, piece in self.pieces if piece.stop is not None]
        return sum(counts) if len(counts) == len(self.pieces) else None


@dataclass(frozen=True)
class Source:
    """The files of an experiment, each with its role and the digest of its content.

    Parameters
    ----------
    files, roles, digests
        One a file, in the order of reading.
    stamps
        Size and time of change (ns) of each when it was digested.
    """

    files: list[Path]
    roles: list[str]
    digests: list[str]
    stamps: list[tuple[int, int]]

    def check_unchanged(self, number: int) -> None:
        """See that a file is still what was digested.

        Raises
        ------
        DataError
            If it is not: nothing may be stored under the old content's name.
        """
        if _stamp(self.files[number]) != self.stamps[number]:
            raise DataError(
                f"{self.files[number]}: it changed while it was read", "run again when it is done"
            )

    def shards(self) -> list[Shard]:
        """Cut the files into shards of bounded size; always the same for the same content."""
        shards: list[Shard] = []
        pieces: list[tuple[int, Segment]] = []
        structures = size = 0
        for number, file in enumerate(self.files):
            for segment in cut_file(file, _MOST, _MOST_BYTES):
                count = 1 if segment.stop is None else segment.stop - segment.start
                full = structures + count > _MOST or size + segment.size > _MOST_BYTES
                if pieces and full:
                    shards.append(Shard(tuple(pieces)))
                    pieces, structures, size = [], 0, 0
                pieces.append((number, segment))
                structures, size = structures + count, size + segment.size
        return [*shards, Shard(tuple(pieces))]


def count_structures(shards: list[Shard]) -> int | None:
    """Count the structures of shards, if that is known before they are read."""
    counts = [shard.structures for shard in shards]
    return None if None in counts else sum(count or 0 for count in counts)


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
    stamps = [_stamp(file) for file in files]
    return Source(files, roles, [_content(file) for file in files], stamps)


def _content(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise explain_os_error(error, file) from error


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise explain_os_error(error, file) from error
    return status.st_size, status.st_mtime_ns
