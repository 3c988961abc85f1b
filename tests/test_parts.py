from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest

from ampflow import parts
from ampflow.errors import StorageError
from ampflow.parts import DamagedError, Part, write_part
from ampflow.values import MissingValueError, read_value, write_values


def make_part(path: Path, sizes: tuple[int, ...] = (3, 1, 0, 2)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {
        "energy": random.normal(size=len(sizes)),
        "flag": random.integers(0, 2, size=(len(sizes), 3)).astype(bool),
        "values": random.normal(size=(sum(sizes), 4)),
        "numbers": random.integers(1, 9, size=sum(sizes)).astype(np.uint8),
    }
    rows = {name: arrays[name] for name in ("energy", "flag")}
    items = {name: arrays[name] for name in ("values", "numbers")}
    write_part(path, np.concatenate([[0], np.cumsum(sizes)]), rows, items, {"kind": "test"})
    return arrays


def test_what_is_written_is_read(tmp_path: Path) -> None:
    # Any run of rows comes back bit for bit, with the types it had; rows may be empty.
    arrays = make_part(tmp_path / "a")
    part = Part(tmp_path / "a")
    assert (len(part), part.meta["kind"]) == (4, "test")
    edges = [0, 3, 4, 4, 6]
    for start in range(4):
        for stop in range(start, 5):
            found = part.read(start, stop)
            for name, array in arrays.items():
                own = slice(start, stop) if len(array) == 4 else slice(edges[start], edges[stop])
                np.testing.assert_array_equal(found[name], array[own])
                assert found[name].dtype == array.dtype


@pytest.mark.parametrize("count", [0, 1, 3, 40, 300])
def test_values_are_those_of_lmdb(tmp_path: Path, count: int) -> None:
    # Values are where LMDB itself finds them, short or long, in one page of names or several.
    random = np.random.default_rng(count)
    values = {
        f"name{n}".encode(): random.bytes(int(random.choice([0, 1, 9, 2047, 2048, 5000, 30_000])))
        for n in range(count)
    }
    write_values(tmp_path / "a", values)
    for name, value in values.items():
        assert read_value(tmp_path / "a", name) == value
        assert read_value(tmp_path / "a", name, 3, 2500) == value[3:2500]
    with pytest.raises(MissingValueError):
        read_value(tmp_path / "a", b"other")
    environment = lmdb.open(str(tmp_path / "a"), subdir=False, readonly=True, lock=False)
    with environment, environment.begin() as transaction:
        assert dict(transaction.cursor()) == values


def test_a_part_without_rows(tmp_path: Path) -> None:
    # All structures of a shard may be unusable.
    make_part(tmp_path / "a", ())
    assert len(Part(tmp_path / "a")) == 0
    assert Part(tmp_path / "a").damaged() == []


@pytest.mark.parametrize("sizes", [(3, 1, 0, 2), (90, 80)])
@pytest.mark.parametrize("most", [1_000, pytest.param(15_000, marks=pytest.mark.slow)])
def test_every_flipped_byte_is_found(tmp_path: Path, sizes: tuple[int, ...], most: int) -> None:
    # Whatever byte changes: the row is named, or the head, or the file is refused, and the
    # process survives. The only bytes that mean nothing are zeros behind a long value.
    arrays = make_part(tmp_path / "a", sizes)
    content = (tmp_path / "a").read_bytes()
    step = max(1, len(content) // most) | 1  # odd: no place in a page is spared
    unnoticed = []
    for place in range(0, len(content), step):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << (place % 7)
        (tmp_path / "b").unlink(missing_ok=True)  # or it would be the file that is open already
        (tmp_path / "b").write_bytes(spoilt)
        try:
            if not Part(tmp_path / "b").damaged():
                unnoticed.append(place)
        except StorageError:
            pass
    assert all(content[place] == 0 for place in unnoticed)
    meant = sum(array.nbytes for array in arrays.values())
    assert len(unnoticed) <= (len(content) - meant) / step


def test_the_damaged_row_is_named(tmp_path: Path) -> None:
    # Rows are checked by themselves: one that is spoilt spares the others.
    arrays = make_part(tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[content.index(arrays["values"][4:5].tobytes())] ^= 1
    (tmp_path / "a").write_bytes(content)
    part = Part(tmp_path / "a")
    assert part.damaged() == [3]
    part.read(0, 3)
    with pytest.raises(DamagedError, match="record 3 is not as it was written") as caught:
        part.read(2, 4)
    assert caught.value.row == 3


def test_rows_are_checked_again_where_the_file_changed(tmp_path: Path) -> None:
    # A row that was read once is believed, but only as long as nobody writes to the file.
    arrays = make_part(tmp_path / "a")
    part = Part(tmp_path / "a")
    part.read(0, 4)
    content = bytearray((tmp_path / "a").read_bytes())
    content[content.index(arrays["values"][4:5].tobytes())] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DamagedError, match="record 3 is not as it was written"):
        part.read(0, 4)


def test_missing_short_and_foreign_files(tmp_path: Path) -> None:
    # Whatever is not a whole part says so, with its name; reading never kills the process.
    make_part(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "short").write_bytes(content[:-20])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "foreign").write_bytes(b"not a part" * 1000)
    for name in ("short", "empty", "foreign", "missing", "a/below"):
        with pytest.raises(StorageError, match=name):
            len(Part(tmp_path / name))


def test_other_schemas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file of a later version is not misread, nor one of an earlier.
    for schema, age in ((99, "newer"), (1, "older")):
        monkeypatch.setattr(parts, "PART_SCHEMA", schema)
        make_part(tmp_path / "a")
        monkeypatch.undo()
        with pytest.raises(StorageError, match=f"{age} ampflow"):
            len(Part(tmp_path / "a"))


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    # A size limit of this process stands for the full disk: one clear sentence, nothing left.
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, old[1]))
        with pytest.raises(StorageError, match=r"a: the disk is full"):
            make_part(tmp_path / "a", (1000,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_closed_part_is_no_longer_held(tmp_path: Path) -> None:
    # What is mapped counts as memory of the process, so nothing is; a closed part's file is not
    # open any more, and is read again when it is used.
    def is_open() -> bool:
        return part.path in {link.resolve() for link in Path("/proc/self/fd").iterdir()}

    make_part(tmp_path / "a")
    part = Part((tmp_path / "a").resolve())
    before = part.read(0, 4)
    assert is_open()
    assert str(part.path) not in Path("/proc/self/maps").read_text()
    part.close()
    assert not is_open()
    np.testing.assert_array_equal(part.read(0, 4)["values"], before["values"])
