from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.images import Frame, Image
from ampflow.store import FingerprintStore, is_whole

Write = Callable[..., Path]


def make_image(index: int, forces: bool = True) -> Image:
    atoms: Atoms = bulk("Cu", a=3.5 + 0.01 * index) * (1, 1, 1 + index % 3)
    atoms.pbc = (True, True, index % 2 == 0)
    values = np.random.default_rng(index).normal(size=(len(atoms), 3))
    geometry = digest(atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    labels = {"forces": values, "stress": values[0].repeat(2)} if forces else {}
    frame = Frame.of(atoms)._replace(energy=-float(index), **labels)
    return Image(frame, Path("/x"), index, geometry)


def features(image: Image) -> np.ndarray:
    return np.random.default_rng(100 + image.index).normal(size=(len(image.atoms), 3))


@pytest.fixture
def make_store(tmp_path: Path, write_store: Write) -> Callable[..., list[Image]]:
    """Make the store a.lmdb of some structures, in shards of five."""

    def make(count: int = 7, forces: bool = True) -> list[Image]:
        images = [make_image(index, forces) for index in range(count)]
        write_store(tmp_path / "a.lmdb", images, [features(image) for image in images])
        return images

    return make


def test_what_is_written_is_read(tmp_path: Path, make_store) -> None:
    # Every array of every structure comes back bit for bit.
    images = make_store()
    store = FingerprintStore(tmp_path / "a.lmdb")
    assert len(store) == 7
    assert [str(geometry) for geometry in store.index.geometries] == [x.geometry for x in images]
    for index, image in enumerate(images):
        found = store.image(index)
        np.testing.assert_array_equal(store.fingerprints(index), features(image))
        assert found.atoms == image.atoms
        np.testing.assert_array_equal(found.forces, image.forces)
        np.testing.assert_array_equal(found.stress, image.stress)
        assert (found.energy, found.index) == (image.energy, image.index)
        assert found.file == Path("/x/a.traj")


def test_load_gathers_structures_in_the_order_asked(tmp_path: Path, make_store) -> None:
    # Contiguous arrays hold the chosen structures one after another.
    images = make_store()
    chosen = [5, 0, 2]
    data = FingerprintStore(tmp_path / "a.lmdb").load(np.array(chosen))
    np.testing.assert_array_equal(data.energies, [-5.0, -0.0, -2.0])
    np.testing.assert_array_equal(
        data.fingerprints, np.concatenate([features(images[i]) for i in chosen])
    )
    np.testing.assert_array_equal(data.offsets, [0, 3, 4, 7])
    np.testing.assert_array_equal(data.forces, np.concatenate([images[i].forces for i in chosen]))
    np.testing.assert_array_equal(data.stresses, [images[i].stress for i in chosen])


def test_labels_are_none_where_a_structure_has_none(tmp_path: Path, make_store) -> None:
    # A label that only some structures have is not made up for the others.
    make_store(forces=False)
    data = FingerprintStore(tmp_path / "a.lmdb").load()
    assert data.forces is None
    assert data.stresses is None
    assert FingerprintStore(tmp_path / "a.lmdb").image(0).stress is None


def test_every_subset_in_any_order(tmp_path: Path, make_store) -> None:
    # Reading in runs gives what reading one by one gives.
    make_store(count=90)
    store = FingerprintStore(tmp_path / "a.lmdb")
    random = np.random.default_rng(0)
    for chosen in (
        random.permutation(90),
        random.integers(0, 90, size=40),
        np.arange(3, 80, 11),
        np.array([], dtype=int),
    ):
        data = store.load(chosen)
        one_by_one = [store.fingerprints(int(index)) for index in chosen]
        np.testing.assert_array_equal(
            data.fingerprints, np.concatenate([*one_by_one, np.empty((0, 3))])
        )
        np.testing.assert_array_equal(data.energies, -chosen.astype(float))
        np.testing.assert_array_equal(data.atoms_per_structure, store.index.atoms[chosen])


def test_a_flipped_byte_is_found_and_named(tmp_path: Path, make_store) -> None:
    # Each record carries a checksum, so damage cannot pass for data; the others can be read.
    images = make_store()
    store = FingerprintStore(tmp_path / "a.lmdb")
    path = store.parts[0][1].path
    content = bytearray(path.read_bytes())
    content[content.index(features(images[3]).tobytes())] ^= 1
    path.write_bytes(content)
    store.fingerprints(2)
    with pytest.raises(StorageError, match="record 3 is not as it was written"):
        store.fingerprints(3)


def test_one_structure_of_each_geometry(tmp_path: Path, write_store: Write) -> None:
    # The same structure with the same energy, in any shard, is left out; nothing is lost by it.
    images = [make_image(index % 6) for index in range(9)]
    write_store(tmp_path / "a.lmdb", images, [features(image) for image in images])
    store = FingerprintStore(tmp_path / "a.lmdb")
    assert len(store) == 6
    assert [(twin.index, twin.duplicate) for twin in store.rejected] == [
        (0, True),
        (1, True),
        (2, True),
    ]
    assert "the same as structure 0" in store.rejected[0].reason
    assert [store.image(index).index for index in range(6)] == list(range(6))


def test_damaged_and_missing_stores(tmp_path: Path, make_store) -> None:
    # Whatever is not a whole store says so and counts as absent.
    (tmp_path / "b.lmdb").write_bytes(b"not a store" * 1000)
    for name in ("b.lmdb", "missing.lmdb"):
        assert not is_whole(tmp_path / name)
        with pytest.raises(StorageError, match=name):
            len(FingerprintStore(tmp_path / name))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_store_whose_part_is_gone_or_short(tmp_path: Path, make_store, kind: int) -> None:
    # A store is as whole as its parts.
    make_store(count=20)
    path = tmp_path / "a.lmdb"
    assert is_whole(path)
    part = FingerprintStore(path).parts[1][kind].path
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    assert not is_whole(path)
    part.unlink()
    assert not is_whole(path)
    with pytest.raises(StorageError, match=part.name):
        FingerprintStore(path).load()


def test_a_store_that_is_gone_or_replaced(tmp_path: Path, make_store) -> None:
    # What this process has read does not stand for what is on the disk.
    path = tmp_path / "a.lmdb"
    make_store()
    assert is_whole(path)
    path.unlink()
    assert not is_whole(path)
    make_store(count=3)
    assert len(FingerprintStore(path)) == 3


def test_may_be_opened_many_times_and_sent_to_other_processes(tmp_path: Path, make_store) -> None:
    # A store is its path, wherever it goes.
    make_store()
    first, second = (FingerprintStore(tmp_path / "a.lmdb") for _ in range(2))
    sent = pickle.loads(pickle.dumps(first))
    assert len(first) == len(second) == len(sent) == 7
    first.close()
    assert len(first.load()) == 7


def test_molecules_without_a_cell(tmp_path: Path, write_store: Write) -> None:
    # No cell and no periodicity is as good a structure as any.
    image = Image(Frame.of(molecule("H2O"))._replace(energy=-1.0), Path("/x"), 0, digest("w"))
    path = write_store(tmp_path / "a.lmdb", [image], [np.zeros((3, 3))])
    assert FingerprintStore(path).image(0).atoms == image.atoms
