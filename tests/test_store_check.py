from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk

from ampflow.digests import digest
from ampflow.errors import OptionError
from ampflow.images import Frame, Image
from ampflow.store import FingerprintStore
from ampflow.store_check import column_table, describe, verify
from ampflow.store_export import export


@pytest.fixture
def store(tmp_path: Path, write_store) -> FingerprintStore:
    """Twelve structures in three shards, the last repeats the first; 5 lacks forces, 7 a stress."""
    random = np.random.default_rng(0)
    images = []
    for index in [*range(12), 0]:
        atoms = bulk("CuO", "rocksalt", a=4.0 + 0.01 * index) * (1, 1, 1 + index % 2)
        forces = None if index == 5 else np.full((len(atoms), 3), float(index))
        stress = None if index == 7 else random.normal(size=6)
        frame = Frame.of(atoms)._replace(energy=-float(index), forces=forces, stress=stress)
        images.append(Image(frame, Path("/x"), index, digest(index)))
    fingerprints = [random.normal(size=(len(image.atoms), 3)) + 1e6 for image in images]
    return FingerprintStore(write_store(tmp_path / "a.lmdb", images, fingerprints))


def test_describe_counts_what_is_there(store: FingerprintStore) -> None:
    # All sizes are those of what readers see, on disk those of all files.
    found = describe(store)
    files = list(store.path.parent.rglob("*.lmdb"))
    assert (found.structures, found.atoms, found.features) == (12, 36, 3)
    assert (found.shards, found.rejected) == (3, 1)
    assert found.size == sum(path.stat().st_size for path in files)


def test_verify_is_silent_on_a_whole_store(store: FingerprintStore) -> None:
    # Nothing is found where nothing is wrong.
    assert verify(store) == []


def flip(path: Path, what: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(what)] ^= 4
    path.write_bytes(content)


def test_verify_names_a_flipped_byte_of_the_structures(store: FingerprintStore) -> None:
    # The record is named, and which structure of which file that is; nothing else.
    part = store.parts[1][0]
    flip(part.path, store.image(7).atoms.positions.tobytes()[24:])
    (damage,) = verify(FingerprintStore(store.path))
    assert damage.file == part.path
    assert damage.what == "record 2, structure 7 of the store, 7 of /x/a.traj"


def test_verify_names_a_flipped_byte_of_the_fingerprints(store: FingerprintStore) -> None:
    # The same for fingerprints, also of a structure that is left out.
    flip(store.parts[0][1].path, store.fingerprints(0).tobytes())
    shard = store.parts[2][1]
    flip(shard.path, shard.read(2, 3)["values"].tobytes())
    first, second = verify(FingerprintStore(store.path))
    assert first.what == "record 0, structure 0 of the store, 0 of /x/a.traj"
    assert second.what == "record 2, a structure that is left out, as it occurs before"


def test_verify_finds_damage_of_heads_and_index(store: FingerprintStore) -> None:
    # What belongs to no structure has checksums as well.
    part = store.parts[1][1].path
    flip(part, store.parts[1][1].offsets.tobytes()[8:])
    (damage,) = verify(FingerprintStore(store.path))
    assert (damage.file, damage.what) == (part, "damaged: its head is not as it was written")
    flip(store.path, store.index.energies[3:6].tobytes())
    (damage,) = verify(FingerprintStore(store.path))
    assert damage.file == store.path


def test_verify_finds_what_is_missing_or_of_others(store: FingerprintStore) -> None:
    # Parts that are gone, or that are sound but those of another shard.
    one, other, last = (fingerprints.path for _, fingerprints in store.parts)
    other.write_bytes(one.read_bytes())
    last.unlink()
    first, second = verify(FingerprintStore(store.path))
    assert (first.file, first.what) == (other, "its fingerprints are not those of its structures")
    assert (second.file, second.what) == (last, "no such file")


def test_columns_are_summarised_exactly(store: FingerprintStore, monkeypatch) -> None:
    # In pieces as in one, and without losing digits to a large mean.
    monkeypatch.setattr("ampflow.store_check._RUN", 5)
    table = column_table(store)
    values = store.load().fingerprints
    assert table["feature"].tolist() == store.header["features"]
    np.testing.assert_array_equal(table["min"], values.min(axis=0))
    np.testing.assert_array_equal(table["max"], values.max(axis=0))
    np.testing.assert_allclose(table["mean"], values.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(table["std"], values.std(axis=0), rtol=1e-9)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export five structures at a time."""
    monkeypatch.setattr("ampflow.store_export._RUN", 5)


@pytest.mark.usefixtures("small_chunks")
def test_extxyz_is_read_by_ase(store: FingerprintStore, tmp_path: Path) -> None:
    # Structures, energies, forces and stresses where there are any, fingerprints of each atom.
    export(store, tmp_path / "out.extxyz")
    found = ase.io.read(tmp_path / "out.extxyz", ":")
    assert len(found) == 12
    for index, atoms in enumerate(found):
        image = store.image(index)
        assert atoms.get_potential_energy() == pytest.approx(image.energy)
        np.testing.assert_allclose(atoms.positions, image.atoms.positions, atol=1e-8)
        np.testing.assert_allclose(atoms.arrays["fingerprints"], store.fingerprints(index))
        assert ("forces" in atoms.calc.results) == (index != 5)
        if index != 5:
            np.testing.assert_allclose(atoms.get_forces(), image.forces)
        assert ("stress" in atoms.calc.results) == (index != 7)
        if index != 7:
            np.testing.assert_allclose(atoms.get_stress(), image.stress)


@pytest.mark.usefixtures("small_chunks")
def test_npz_holds_the_arrays(store: FingerprintStore, tmp_path: Path) -> None:
    # Bit for bit what the store has; forces or a stress that a structure lacks are not-a-number.
    export(store, tmp_path / "out", "npz")
    found, data = np.load(tmp_path / "out"), store.load()
    for name in ("fingerprints", "numbers", "offsets", "energies"):
        np.testing.assert_array_equal(found[name], getattr(data, name))
    assert found["features"].tolist() == store.header["features"]
    for index in range(12):
        rows, image = slice(*found["offsets"][index : index + 2]), store.image(index)
        np.testing.assert_array_equal(found["positions"][rows], image.atoms.positions)
        np.testing.assert_array_equal(found["cells"][index], image.atoms.cell)
        np.testing.assert_array_equal(found["pbc"][index], image.atoms.pbc)
        forces = np.nan if image.forces is None else image.forces
        np.testing.assert_array_equal(
            found["forces"][rows], np.broadcast_to(forces, (len(image.atoms), 3))
        )
        stress = np.full(6, np.nan) if image.stress is None else image.stress
        np.testing.assert_array_equal(found["stresses"][index], stress)
    assert np.isnan(found["stresses"]).any(axis=1).nonzero()[0].tolist() == [7]


@pytest.mark.usefixtures("small_chunks")
def test_parquet_has_a_row_an_atom(store: FingerprintStore, tmp_path: Path) -> None:
    # With structure and atom to join by, labels and a column a feature.
    pytest.importorskip("pyarrow")
    export(store, tmp_path / "out.parquet")
    found, data = pd.read_parquet(tmp_path / "out.parquet"), store.load()
    assert found["structure"].tolist() == np.repeat(range(12), data.atoms_per_structure).tolist()
    assert (
        found.groupby("structure")["atom"].max().tolist() == (data.atoms_per_structure - 1).tolist()
    )
    np.testing.assert_array_equal(found[store.header["features"]], data.fingerprints)
    np.testing.assert_array_equal(found["number"], data.numbers)
    assert found["energy"].iloc[-1] == data.energies[-1]
    assert found["force_x"].isna().sum() == data.atoms_per_structure[5]
    pairs = [f"stress_{pair}" for pair in ("xx", "yy", "zz", "yz", "xz", "xy")]
    for structure, rows in found.groupby("structure"):
        stress = np.nan if structure == 7 else store.image(structure).stress
        assert len(rows) == data.atoms_per_structure[structure]
        np.testing.assert_array_equal(rows[pairs], np.broadcast_to(stress, (len(rows), 6)))


def test_unknown_formats_and_missing_libraries(
    store: FingerprintStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Said before anything is written, with what would do.
    with pytest.raises(OptionError, match="cannot write 'csv'"):
        export(store, tmp_path / "out.csv")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OptionError, match="pyarrow"):
        export(store, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))
