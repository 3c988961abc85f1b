from __future__ import annotations

import errno
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from ampflow.demo import make_demo_structures
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Data, Fingerprints, Split
from ampflow.fingerprinting import find_source, fingerprint, make_descriptor, store_path
from ampflow.splits import make_splits
from ampflow.store import FingerprintStore


@pytest.fixture(scope="module")
def structures() -> list[ase.Atoms]:
    return make_demo_structures(12, seed=2)


def make_store(folder: Path, data: Data, **options: object) -> FingerprintStore:
    source, descriptor = find_source(data), make_descriptor(Fingerprints(**options))
    path = store_path(folder / "stores", source, data, descriptor)
    return fingerprint(source, data, descriptor, path)


def write(path: Path, structures: list[ase.Atoms]) -> Data:
    ase.io.write(path, structures)
    return Data(files=[str(path)])


def test_a_store_holds_what_the_descriptor_computes(tmp_path: Path, structures) -> None:
    # One record a structure, in the files' order, each the descriptor's own values.
    store = make_store(tmp_path, write(tmp_path / "a.traj", structures), sigmas=[0.5, 1.5])
    descriptor = make_descriptor(Fingerprints(sigmas=[0.5, 1.5]))
    assert len(store) == 12
    assert store.header["features"] == descriptor.feature_names
    for index, atoms in enumerate(structures):
        np.testing.assert_array_equal(store.fingerprints(index), descriptor.compute(atoms))
        assert store.index.energies[index] == atoms.get_potential_energy()


def test_the_same_content_has_the_same_store(tmp_path: Path, structures) -> None:
    # A file that was renamed is the same data; every option of the descriptor is part of the name.
    first = make_store(tmp_path, write(tmp_path / "a.traj", structures))
    (tmp_path / "a.traj").rename(tmp_path / "b.traj")
    again = make_store(tmp_path, Data(files=[str(tmp_path / "b.traj")]))
    other = make_store(tmp_path, Data(files=[str(tmp_path / "b.traj")]), cutoff=4.0)
    assert first.path == again.path != other.path


def test_a_changed_energy_copies_the_fingerprints(tmp_path: Path, structures) -> None:
    # Fingerprints do not depend on energies: all are copied, and the new energy is stored.
    before = make_store(tmp_path, write(tmp_path / "a.traj", structures))
    changed = [atoms.copy() for atoms in structures]
    for atoms, old in zip(changed, structures, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=old.get_potential_energy())
    changed[7].calc = SinglePointCalculator(changed[7], energy=-1.25)
    after = make_store(tmp_path, write(tmp_path / "a.traj", changed))
    assert after.path != before.path
    assert (before.header["reused"], after.header["reused"]) == (0, 12)
    different = np.flatnonzero(after.index.energies != before.index.energies)
    assert different.tolist() == [7]
    assert after.index.energies[7] == -1.25


def test_one_moved_atom_is_computed_anew(tmp_path: Path, structures) -> None:
    # Exactly the structure that changed is not copied.
    make_store(tmp_path, write(tmp_path / "a.traj", structures))
    moved = [atoms.copy() for atoms in structures]
    moved[3].positions[0] += 0.01
    for atoms in moved:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    assert make_store(tmp_path, write(tmp_path / "a.traj", moved)).header["reused"] == 11


def test_one_sigma_changes_everything(tmp_path: Path, structures) -> None:
    # Another descriptor shares nothing with the first.
    data = write(tmp_path / "a.traj", structures)
    make_store(tmp_path, data, sigmas=[0.5, 1.5])
    assert make_store(tmp_path, data, sigmas=[0.5, 1.6]).header["reused"] == 0


def test_damaged_stores_are_made_again(tmp_path: Path, structures) -> None:
    # What cannot be read is as good as absent, for its own name and as a source to copy from.
    data = write(tmp_path / "a.traj", structures)
    store = make_store(tmp_path, data)
    store.close()
    store.path.write_bytes(b"damaged" * 1000)
    assert len(make_store(tmp_path, data)) == 12


def test_bad_structures_stop_or_are_listed(tmp_path: Path, structures) -> None:
    # on_bad decides; what was skipped is in the store's header with file, index and reason.
    bad = [*structures[:3], structures[3].copy(), *structures[4:]]  # a copy has no energy
    data = write(tmp_path / "a.traj", bad)
    with pytest.raises(DataError, match=r"a\.traj, structure 3: it has no energy"):
        make_store(tmp_path, data)
    assert not list((tmp_path / "stores").iterdir())
    store = make_store(tmp_path, data.model_copy(update={"on_bad": "skip"}))
    assert len(store) == 11
    assert [(item.index, item.reason) for item in store.rejected] == [(3, "it has no energy")]


def test_nothing_usable_is_an_error(tmp_path: Path, structures) -> None:
    # Skipping everything is not a run on nothing.
    data = write(tmp_path / "a.traj", [structures[0].copy()])
    with pytest.raises(DataError, match="no structure can be used") as caught:
        make_store(tmp_path, data.model_copy(update={"on_bad": "skip"}))
    assert "it has no energy" in caught.value.hint


def test_a_named_test_file_stays_the_test_part(tmp_path: Path, structures) -> None:
    # What is in test and elsewhere is left out elsewhere, and a glob does not take the file back.
    ase.io.write(tmp_path / "all.traj", structures)
    ase.io.write(tmp_path / "test.traj", structures[:3])
    data = Data(files=[str(tmp_path / "*.traj")], test_files=[str(tmp_path / "test.traj")])
    store = make_store(tmp_path, data)
    roles = [file["role"] for file in store.header["files"]]
    splits = make_splits(store.index, roles, Split(), 0)
    assert len(store) == 12
    assert {str(store.image(int(i)).file.name) for i in splits.test} == {"test.traj"}
    assert len(splits.test) == 3
    both = Data(files=data.test_files, test_files=data.test_files)
    with pytest.raises(DataError, match="named in"):
        find_source(both)


def test_a_file_that_grows_is_not_stored(tmp_path: Path, structures, monkeypatch) -> None:
    # A store is named after the content that it was made from.
    data = write(tmp_path / "a.traj", structures)
    source = find_source(data)
    write(tmp_path / "a.traj", structures[:6])
    descriptor = make_descriptor(Fingerprints(sigmas=[0.5]))
    with pytest.raises(DataError, match="changed while it was read"):
        fingerprint(source, data, descriptor, tmp_path / "stores" / "x.lmdb")
    assert not (tmp_path / "stores" / "x.lmdb").exists()


def test_a_disk_error_is_not_a_bad_structure(tmp_path: Path, structures, monkeypatch) -> None:
    # What may pass by itself must not leave structures out for ever.
    data = write(tmp_path / "a.traj", structures).model_copy(update={"on_bad": "skip"})

    def failing(*args: object, **kwargs: object):
        yield structures[0]
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(ase.io, "iread", failing)
    with pytest.raises(StorageError) as caught:
        make_store(tmp_path, data)
    assert caught.value.fleeting
