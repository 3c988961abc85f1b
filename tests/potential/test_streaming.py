from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from ampflow.dataset import Dataset
from ampflow.digests import digest
from ampflow.errors import OptionError, StorageError
from ampflow.experiment import Training
from ampflow.images import Frame, Image
from ampflow.potential import shuffling
from ampflow.potential.derivatives import load_parts
from ampflow.potential.training import Trained, train
from ampflow.store import FingerprintStore
from ampflow.stored import Stored

SMALL = 1e-9  # GB: nothing fits
OPTIONS = Training(num_layers=1, num_nodes=4, epochs=4, batch_size=8, dropout_rate=0.1)


@pytest.fixture
def store(tmp_path: Path, write_store: Any) -> FingerprintStore:
    """90 structures of hydrogen and oxygen with random fingerprints."""
    random = np.random.default_rng(0)
    images, fingerprints = [], []
    for index in range(90):
        atoms = Atoms("H" * (1 + index % 3) + "O" * (1 + index % 2))
        rows = random.normal(size=(len(atoms), 4))
        energy = -3.0 * len(atoms) + float(np.sin(rows[:, 0]).sum())
        frame = Frame.of(atoms)._replace(energy=energy)
        images.append(Image(frame, Path("/x"), index, digest(index)))
        fingerprints.append(rows)
    write_store(tmp_path / "store", images, fingerprints)
    return FingerprintStore(tmp_path / "store")


def _trained(store: FingerprintStore, options: Training, **more: Any) -> Trained:
    parts = [np.delete(np.arange(90), np.s_[::9]), np.arange(0, 90, 9)]
    return train(*load_parts(store, parts, options), options, seed=3, **more)


def _same(one: Trained, other: Trained) -> None:
    np.testing.assert_array_equal(one.fit.weights, other.fit.weights)
    assert [replace(e, seconds=0) for e in one.history] == [
        replace(e, seconds=0) for e in other.history
    ]


# A window has every structure once, drawn from everywhere; all fit into one where they can.
def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, random = np.full(1000, 5), np.random.default_rng(0)
    assert len(shuffling.shuffled(random, sizes, 4)) == 1
    monkeypatch.setattr(shuffling, "_WINDOW", 5 * 4 * 130)
    windows = shuffling.shuffled(random, sizes, 4)
    assert [len(order) for order, _ in windows] == [130] * 7 + [90]
    drawn = np.concatenate([order for order, _ in windows])
    np.testing.assert_array_equal(np.sort(drawn), np.arange(1000))
    assert all(np.ptp(order) > 800 for order, _ in windows)


# Streamed or in memory, in one window or many: the same training to the bit.
@pytest.mark.parametrize("window", [2**22, 300])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "float64"},
        {"optimizer": "lbfgs", "loss": "mse"},
        {"network": "per-element"},
    ],
    ids=str,
)
def test_streaming_changes_nothing(
    store: FingerprintStore, monkeypatch: pytest.MonkeyPatch, window: int, changes: Any
) -> None:
    monkeypatch.setattr(shuffling, "_WINDOW", window)
    options = OPTIONS.model_copy(update=changes)
    streamed = _trained(store, options.model_copy(update={"memory": SMALL}))
    _same(_trained(store, options), streamed)


# A streamed training that was stopped goes on, in memory or not, as if it had not been.
def test_streamed_training_resumes(
    store: FingerprintStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shuffling, "_WINDOW", 300)

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    small = OPTIONS.model_copy(update={"memory": SMALL})
    with pytest.raises(KeyboardInterrupt):
        _trained(store, small, checkpoint=tmp_path / "c", on_epoch=stop)
    again: list[int] = []
    resumed = _trained(
        store, OPTIONS, checkpoint=tmp_path / "c", on_epoch=lambda e: again.append(e.number)
    )
    assert again == [3, 4]
    _same(_trained(store, OPTIONS), resumed)


# A store that is damaged while it is streamed ends the training with an error that says where.
def test_damage_while_streaming(
    store: FingerprintStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shuffling, "_WINDOW", 300)
    path, row = store.parts[0][1].path, store.fingerprints(1).tobytes()

    where = path.read_bytes().index(row)

    def damage(_: Any) -> None:
        # In place: what is read ahead meanwhile must not find the file cut short.
        with path.open("r+b") as file:
            file.seek(where)
            file.write(bytes([row[0] ^ 1]))

    small = OPTIONS.model_copy(update={"memory": SMALL})
    with pytest.raises(StorageError, match="record 1 is not as it was written"):
        _trained(store, small, on_epoch=damage)


# So does a disk that fails, and a store that is removed; what was trained so far stays.
@pytest.mark.parametrize(
    ("trouble", "said"), [("fails", "[Ii]nput/output error"), ("removed", "no such file")]
)
def test_a_disk_that_fails(
    store: FingerprintStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    trouble: str,
    said: str,
) -> None:
    monkeypatch.setattr(shuffling, "_WINDOW", 300)

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def begin(_: Any) -> None:
        if trouble == "removed":
            for _, fingerprints in store.parts:
                fingerprints.path.unlink(missing_ok=True)
        else:
            monkeypatch.setattr(os, "pread", fail)

    small = OPTIONS.model_copy(update={"memory": SMALL, "checkpoint_epochs": 1})
    with pytest.raises(StorageError, match=said):
        _trained(store, small, on_epoch=begin, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").is_file()


# What training takes depends on its precision: numbers twice as long may not fit.
def test_memory_counts_the_precision(store: FingerprintStore) -> None:
    numbers = 4 * int(store.index.atoms.sum())
    for precision, kind in (("float32", Dataset), ("float64", Stored)):
        options = Training(precision=precision, memory=20e-9 * numbers)
        assert isinstance(load_parts(store, [np.arange(90)], options)[0], kind)


# Validation lies scattered in a store, and stays in memory where it takes little of it.
def test_a_small_part_stays_in_memory(store: FingerprintStore) -> None:
    parts = [np.arange(80), np.arange(80, 90)]
    atoms = [int(store.index.atoms[part].sum()) for part in parts]
    options = Training(memory=2.1e-9 * 16 * 4 * atoms[1])
    assert [type(part) for part in load_parts(store, parts, options)] == [Stored, Dataset]


# What cannot be streamed is refused before memory runs out.
def test_a_gpu_needs_memory(store: FingerprintStore) -> None:
    with pytest.raises(OptionError, match="needs them in memory"):
        _trained(store, OPTIONS.model_copy(update={"memory": SMALL, "device": "cuda"}))
