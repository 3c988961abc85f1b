from __future__ import annotations

import errno
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ampflow.demo import make_demo_structures
from ampflow.errors import DataError, StorageError
from ampflow.experiment import Data, Fingerprints, Split
from ampflow.fingerprinting import (
    StoreJob,
    find_source,
    fingerprint,
    make_descriptor,
    store_path,
)
from ampflow.fingerprints import GMP
from ampflow.fingerprints.placing import Batch
from ampflow.images import Frame
from ampflow.progress import Pace
from ampflow.splits import make_splits
from ampflow.store import FingerprintStore
from ampflow.trajectories import Trajectory


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


def test_other_columns_are_copied_where_they_are_known(tmp_path: Path, structures) -> None:
    # Columns that another descriptor has, of whichever order and sigma, are not computed again.
    data = write(tmp_path / "a.traj", structures)
    make_store(tmp_path, data, sigmas=[0.5, 1.5], orders=[0, 1])
    computed: list[list[str]] = []
    compute = GMP.compute_batch

    def noted(self: GMP, batch: Batch) -> np.ndarray:
        computed.extend([self.feature_names] * len(batch.cells))
        return compute(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GMP, "compute_batch", noted)
        store = make_store(tmp_path, data, sigmas=[0.5, 1.5, 1e-05], orders=[0, 1, 2])
    new = ["order0-sigma1e-05", "order1-sigma1e-05"]
    new += [f"order2-sigma{sigma}" for sigma in (0.5, 1.5, 1e-05)]
    assert computed == [new] * 12
    expected = make_descriptor(Fingerprints(sigmas=[0.5, 1.5, 1e-05], orders=[0, 1, 2]))
    for index, atoms in enumerate(structures):
        np.testing.assert_allclose(
            store.fingerprints(index), expected.compute(atoms), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("other", [{"cutoff": 4.5}, {"square": True}, {"normalize": "group"}])
def test_another_kind_shares_no_columns(tmp_path: Path, structures, other) -> None:
    # Equal names of columns do not make equal columns.
    data = write(tmp_path / "a.traj", structures[:3])
    make_store(tmp_path, data, sigmas=[0.5])
    store = make_store(tmp_path, data, sigmas=[0.5], **other)
    expected = make_descriptor(Fingerprints(sigmas=[0.5], **other))
    assert store.header["reused"] == 0
    np.testing.assert_array_equal(store.fingerprints(1), expected.compute(structures[1]))


def test_damaged_stores_are_made_again(tmp_path: Path, structures) -> None:
    # What cannot be read is as good as absent, for its own name and as a source to copy from.
    data = write(tmp_path / "a.traj", structures)
    store = make_store(tmp_path, data)
    store.path.write_bytes(b"damaged" * 1000)
    assert len(make_store(tmp_path, data)) == 12


def test_bad_structures_stop_or_are_listed(tmp_path: Path, structures) -> None:
    # on_bad decides; what was skipped is in the store's header with file, index and reason.
    bad = [*structures[:3], structures[3].copy(), *structures[4:]]  # a copy has no energy
    data = write(tmp_path / "a.traj", bad)
    with pytest.raises(DataError, match=r"a\.traj, structure 3: it has no energy"):
        make_store(tmp_path, data)
    assert not list((tmp_path / "stores").glob("*.lmdb"))
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


@pytest.fixture
def few_in_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of four structures."""
    monkeypatch.setattr("ampflow.source._MOST", 4)


@pytest.mark.usefixtures("few_in_a_shard")
def test_shards_are_one_store(tmp_path: Path, structures) -> None:
    # Readers see one store, whatever it was cut into, equal to that in one piece.
    first, second = tmp_path / "a.traj", tmp_path / "b.traj"
    write(first, structures[:7])
    write(second, structures[6:])
    store = make_store(tmp_path, Data(files=[str(first), str(second)]))
    assert len(store.parts) == 4  # 4; 3 and 1; 4; 1 of the second file
    assert len(store) == 12
    assert [item.duplicate for item in store.rejected] == [True]
    descriptor = make_descriptor(Fingerprints())
    for index, atoms in enumerate(structures):
        np.testing.assert_array_equal(store.fingerprints(index), descriptor.compute(atoms))


@pytest.mark.usefixtures("few_in_a_shard")
def test_a_larger_file_reuses_its_beginning(tmp_path: Path, structures) -> None:
    # Appended structures are computed, those before them are found.
    make_store(tmp_path, write(tmp_path / "a.traj", structures[:8]))
    assert make_store(tmp_path, write(tmp_path / "a.traj", structures)).header["reused"] == 8


@pytest.mark.usefixtures("few_in_a_shard")
@pytest.mark.parametrize("kind", [0, 1])
def test_a_damaged_shard_is_made_again_alone(tmp_path: Path, structures, kind: int) -> None:
    # Damage within a part is found when the store is made again, and only that part is remade.
    data = write(tmp_path / "a.traj", structures)
    store = make_store(tmp_path, data)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.lmdb")}
    spoilt = store.parts[1][kind].path
    content = bytearray(spoilt.read_bytes())
    content[-9] ^= 1
    spoilt.write_bytes(content)
    store.path.unlink()
    again = make_store(tmp_path, data)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.lmdb")}
    assert {path for path in after if after[path] != before[path]} == {spoilt, again.path}
    np.testing.assert_array_equal(
        again.fingerprints(5), make_descriptor(Fingerprints()).compute(structures[5])
    )


KILLED = """
import os, sys
from pathlib import Path
from ampflow import source
from ampflow.experiment import Data, Fingerprints
from ampflow.fingerprinting import (
    StoreJob,
    find_source,
    fingerprint,
    make_descriptor,
    store_path,
)
from ampflow.fingerprints import GMP
from ampflow.fingerprints.placing import Batch
from ampflow.images import Frame
source._MOST = 4
compute, computed = GMP.compute_batch, [0]
def dying(self, batch):
    computed[0] += len(batch.cells)
    if computed[0] >= 10:
        os.kill(os.getpid(), 9)
    return compute(self, batch)
GMP.compute_batch = dying
data = Data(files=[sys.argv[1]])
found, descriptor = find_source(data), make_descriptor(Fingerprints())
path = store_path(Path(sys.argv[2]), found, data, descriptor)
fingerprint(found, data, descriptor, path, threads=1)
"""


@pytest.mark.usefixtures("few_in_a_shard")
def test_a_killed_run_goes_on(tmp_path: Path, structures, monkeypatch) -> None:
    # SIGKILL in the third shard: the two before it are found, the third and no more is redone.
    data = write(tmp_path / "a.traj", structures)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "a.traj", tmp_path / "stores"], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list((tmp_path / "stores").glob("*.lmdb"))
    read: list[int] = []
    frame = Trajectory.frame
    monkeypatch.setattr(
        Trajectory, "frame", lambda self, index: (read.append(index), frame(self, index))[1]
    )
    store = make_store(tmp_path, data)
    assert (len(store), store.header["reused"]) == (12, 8)
    assert read == []  # the structures of the third shard had been written


@pytest.mark.usefixtures("few_in_a_shard")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_shard_leaves_nothing_in_memory(tmp_path: Path, structures) -> None:
    # Made anew, with rows or columns of others, or found: its files are mapped no longer, so that
    # memory does not grow with the number of shards.
    data = write(tmp_path / "a.traj", structures)
    for options in ({"orders": 1}, {"orders": 2}, {"orders": 2}):
        source, descriptor = find_source(data), make_descriptor(Fingerprints(**options))
        path = store_path(tmp_path / "stores", source, data, descriptor)
        job = StoreJob(source, data, descriptor, path)
        assert len(source.shards()) == 3
        for shard in source.shards():
            job.make(shard)
            assert str(tmp_path / "stores") not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("few_in_a_shard")
def test_two_runs_at_once(tmp_path: Path, structures) -> None:
    # Runs on the same cache may do the same work, but neither harms the other.
    data = write(tmp_path / "a.traj", structures)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: make_store(tmp_path, data), range(4)))
    descriptor = make_descriptor(Fingerprints())
    for store in stores:
        np.testing.assert_array_equal(store.fingerprints(9), descriptor.compute(structures[9]))
    left = [path for path in (tmp_path / "stores").rglob("*") if path.name.startswith(".")]
    assert left == []


def test_progress_tells_rate_and_time_left(tmp_path: Path, structures, monkeypatch) -> None:
    # What is done is counted in structures; the rate is of the last seconds.
    clock = iter(range(1000))
    monkeypatch.setattr("ampflow.progress.time.monotonic", lambda: float(next(clock)))
    seen: list[tuple[int, int | None, str]] = []
    pace = Pace(lambda *what: seen.append(what), 300, "structures")
    for _ in range(3):
        pace.advance(50)
    assert seen[-1] == (150, 300, "50 structures/s, 3 s left")


def test_a_disk_error_is_not_a_bad_structure(tmp_path: Path, structures, monkeypatch) -> None:
    # What may pass by itself must not leave structures out for ever.
    data = write(tmp_path / "a.traj", structures).model_copy(update={"on_bad": "skip"})

    frame = Trajectory.frame

    def failing(self: Trajectory, index: int) -> Frame | None:
        if index < 3:
            return frame(self, index)
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Trajectory, "frame", failing)
    with pytest.raises(StorageError) as caught:
        make_store(tmp_path, data)
    assert caught.value.fleeting


def test_a_contradiction_is_an_error(tmp_path: Path, structures) -> None:
    # One structure with two energies cannot be fitted: an error, or left out if so wished.
    twin = structures[2].copy()
    twin.calc = SinglePointCalculator(twin, energy=-99.0)
    data = write(tmp_path / "a.traj", [*structures, twin])
    with pytest.raises(DataError, match=r"structure 12: the same as structure 2 .*another energy"):
        make_store(tmp_path, data)
    store = make_store(tmp_path, data.model_copy(update={"on_bad": "skip"}))
    assert (len(store), [item.duplicate for item in store.rejected]) == (12, [False])


def test_what_has_no_fingerprints_is_named(tmp_path: Path, structures, monkeypatch) -> None:
    # An error of the kernel says which structure of which file it met.
    compute = GMP.compute_batch

    def refusing(self: GMP, batch: Batch) -> np.ndarray:
        if any((batch.positions == position).all(axis=1).any() for position in refused):
            raise DataError("the cutoff is too large", "choose a smaller one")
        return compute(self, batch)

    refused = structures[1].positions[:1]
    monkeypatch.setattr(GMP, "compute_batch", refusing)
    data = write(tmp_path / "a.traj", structures[:3])
    with pytest.raises(DataError, match=r"a\.traj, structure 1: the cutoff is too large"):
        make_store(tmp_path, data)


def test_all_descriptors_have_the_same_split(tmp_path: Path, structures) -> None:
    # The structures of a store, and their order, do not depend on the descriptor.
    data = write(tmp_path / "a.traj", structures)
    one, other = (make_store(tmp_path, data, sigmas=[sigma]) for sigma in (0.5, 0.6))
    assert one.header["structures"] == other.header["structures"]
    np.testing.assert_array_equal(one.index.geometries, other.index.geometries)


def test_formulas_are_in_hills_order(tmp_path: Path) -> None:
    # As ASE writes them.
    names = ["H2O", "CH3OH", "CO2", "C6H6", "PtCO", "NaCl", "CuH", "C"]
    molecules = [Atoms(name) for name in names]
    for number, atoms in enumerate(molecules):
        atoms.positions = [[2.0 * i, 0, 0] for i in range(len(atoms))]
        atoms.calc = SinglePointCalculator(atoms, energy=-float(number))
    store = make_store(tmp_path, write(tmp_path / "a.traj", molecules))
    assert store.index.formulas == [atoms.get_chemical_formula() for atoms in molecules]
