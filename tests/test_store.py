from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ampflow import store as store_module
from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.images import Image
from ampflow.store import FingerprintStore, is_whole, write_store

HEADER = {"digest": "a", "features": ["f0", "f1", "f2"], "files": [{"path": "/x/a.traj"}]}


def make_image(index: int, forces: bool = True) -> Image:
    atoms: Atoms = bulk("Cu", a=3.5 + 0.01 * index) * (1, 1, 1 + index % 3)
    atoms.pbc = (True, True, index % 2 == 0)
    values = np.random.default_rng(index).normal(size=(len(atoms), 3))
    geometry = digest(atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    return Image(atoms, -float(index), values if forces else None, Path("/x"), index, geometry)


def features(image: Image) -> np.ndarray:
    return np.random.default_rng(100 + image.index).normal(size=(len(image.atoms), 3))


def make_store(path: Path, count: int = 7, forces: bool = True) -> list[Image]:
    images = [make_image(index, forces) for index in range(count)]
    with write_store(path) as writer:
        for image in images:
            writer.append(image, features(image), 0)
        writer.finish(HEADER)
    return images


def test_what_is_written_is_read(tmp_path: Path) -> None:
    # Every array of every structure comes back bit for bit.
    images = make_store(tmp_path / "a.lmdb")
    store = FingerprintStore(tmp_path / "a.lmdb")
    assert len(store) == 7
    assert [str(geometry) for geometry in store.index.geometries] == [x.geometry for x in images]
    for index, image in enumerate(images):
        found = store.image(index)
        np.testing.assert_array_equal(store.fingerprints(index), features(image))
        assert found.atoms == image.atoms
        np.testing.assert_array_equal(found.forces, image.forces)
        assert (found.energy, found.index) == (image.energy, image.index)
        assert found.file == Path("/x/a.traj")


def test_load_gathers_structures_in_the_order_asked(tmp_path: Path) -> None:
    # Contiguous arrays hold the chosen structures one after another.
    images = make_store(tmp_path / "a.lmdb")
    chosen = [5, 0, 2]
    data = FingerprintStore(tmp_path / "a.lmdb").load(np.array(chosen))
    np.testing.assert_array_equal(data.energies, [-5.0, -0.0, -2.0])
    np.testing.assert_array_equal(
        data.fingerprints, np.concatenate([features(images[i]) for i in chosen])
    )
    np.testing.assert_array_equal(data.offsets, [0, 3, 4, 7])
    np.testing.assert_array_equal(data.forces, np.concatenate([images[i].forces for i in chosen]))


def test_forces_are_none_where_a_structure_has_none(tmp_path: Path) -> None:
    # A label that only some structures have is not made up for the others.
    make_store(tmp_path / "a.lmdb", forces=False)
    assert FingerprintStore(tmp_path / "a.lmdb").load().forces is None


def test_grows_beyond_its_first_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A store has no fixed capacity: the map is enlarged as records come.
    monkeypatch.setattr(store_module, "_FIRST_MAP_SIZE", 1 << 14)
    monkeypatch.setattr(store_module, "_BATCH_BYTES", 1 << 12)
    make_store(tmp_path / "a.lmdb", count=300)
    assert len(FingerprintStore(tmp_path / "a.lmdb")) == 300
    assert FingerprintStore(tmp_path / "a.lmdb").fingerprints(299).shape == (3, 3)


def test_a_store_is_complete_or_absent(tmp_path: Path) -> None:
    # An interruption leaves nothing behind, not even the file being written.
    with pytest.raises(KeyboardInterrupt), write_store(tmp_path / "a.lmdb") as writer:
        writer.append(make_image(0), features(make_image(0)), 0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    # Each record carries a checksum, so damage cannot pass for data.
    path = tmp_path / "a.lmdb"
    images = make_store(path)
    content = bytearray(path.read_bytes())
    content[content.index(features(images[3]).tobytes())] ^= 1
    path.write_bytes(content)
    store = FingerprintStore(path)
    store.fingerprints(2)
    with pytest.raises(StorageError, match="record 3 is not as it was written"):
        store.fingerprints(3)


def test_damaged_and_missing_stores(tmp_path: Path) -> None:
    # Whatever is not a whole store says so and counts as absent.
    (tmp_path / "a.lmdb").write_bytes(b"not a store" * 1000)
    for name in ("a.lmdb", "missing.lmdb"):
        assert not is_whole(tmp_path / name)
        with pytest.raises(StorageError, match=name):
            len(FingerprintStore(tmp_path / name))


def test_a_store_that_was_cut_short(tmp_path: Path) -> None:
    # Reading beyond the end of a mapped file would kill the process, so it is refused.
    path = tmp_path / "a.lmdb"
    make_store(path, count=200)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    assert not is_whole(path)
    with pytest.raises(StorageError, match="cut short"):
        FingerprintStore(path).fingerprints(150)


def test_a_store_that_is_gone_or_replaced(tmp_path: Path) -> None:
    # What this process has open does not stand for what is on the disk.
    path = tmp_path / "a.lmdb"
    make_store(path)
    assert is_whole(path)
    path.unlink()
    assert not is_whole(path)
    make_store(path, count=3)
    assert len(FingerprintStore(path)) == 3


def test_newer_schemas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A store of a later version is not misread.
    monkeypatch.setattr(store_module, "SCHEMA_VERSION", 99)
    make_store(tmp_path / "a.lmdb")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="newer ampflow"):
        _ = FingerprintStore(tmp_path / "a.lmdb").header


def test_may_be_opened_many_times_and_sent_to_other_processes(tmp_path: Path) -> None:
    # LMDB itself refuses to open a file twice in a process.
    make_store(tmp_path / "a.lmdb")
    first, second = (FingerprintStore(tmp_path / "a.lmdb") for _ in range(2))
    sent = pickle.loads(pickle.dumps(first))
    assert len(first) == len(second) == len(sent) == 7


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    # ENOSPC in the middle of writing becomes one clear sentence. /dev/full cannot hold a store,
    # so a size limit of this process stands for the full disk.
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
        with pytest.raises(StorageError, match=r"a\.lmdb"):
            make_store(tmp_path / "a.lmdb", count=2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "a.lmdb").exists()


def test_molecules_without_a_cell(tmp_path: Path) -> None:
    # No cell and no periodicity is as good a structure as any.
    image = Image(molecule("H2O"), -1.0, None, Path("/x"), 0, digest("w"))
    with write_store(tmp_path / "a.lmdb") as writer:
        writer.append(image, np.zeros((3, 3)), 0)
        writer.finish(HEADER)
    assert FingerprintStore(tmp_path / "a.lmdb").image(0).atoms == image.atoms
