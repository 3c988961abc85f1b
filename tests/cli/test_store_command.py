from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from ampflow.digests import digest
from ampflow.images import Frame, Image
from ampflow.store import FingerprintStore


@pytest.fixture
def cache(tmp_path: Path, write_store) -> Path:
    """A cache folder with one store of seven structures."""
    images = [
        Image(
            Frame.of(bulk("Cu", a=3.5 + 0.01 * index))._replace(energy=-float(index)),
            Path("/x"),
            index,
            digest(index),
        )
        for index in range(7)
    ]
    fingerprints = [np.full((1, 2), float(index)) for index in range(7)]
    path = tmp_path / "cache" / "stores" / "abc.lmdb"
    write_store(path, images, fingerprints, seconds=1.5, reused=0)
    return tmp_path / "cache"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("ampflow"), "store", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_info_and_columns(cache: Path) -> None:
    # A store is found by its file, the beginning of its name, or as the only one.
    for name in ([], ["ab"], [cache / "stores" / "abc.lmdb"]):
        done = run("info", *name, "--cache", cache)
        assert done.returncode == 0, done.stderr
        assert "7 (0 left out)" in done.stdout
        assert "2 shards" in done.stdout
    done = run("columns", "--cache", cache)
    assert [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["f1"]] == [
        ["f1", "0", "6", "3", "2"]
    ]
    assert run("info", "zz", "--cache", cache).returncode == 1
    structures = cache / "water.traj"
    structures.touch()
    for name, why in ((structures, "no store"), (cache / "absent.lmdb", "no such file")):
        done = run("info", name)
        assert done.returncode == 1
        assert f"{name}: {why}" in " ".join(done.stderr.split())
        assert "delete" not in done.stderr


def test_verify_has_an_exit_code(cache: Path) -> None:
    # 0 if every byte is right; 1 if not, with file, record and structure.
    assert run("verify", "--cache", cache).returncode == 0
    part = FingerprintStore(cache / "stores" / "abc.lmdb").parts[0][1].path
    content = bytearray(part.read_bytes())
    content[content.index(np.full(2, 3.0).tobytes())] ^= 1
    part.write_bytes(content)
    done = run("verify", "--cache", cache)
    assert done.returncode == 1
    assert f"{part}: record 3, structure 3 of the store" in done.stdout


def test_export(cache: Path, tmp_path: Path) -> None:
    # The suffix says the format; an unknown one is refused.
    done = run("export", tmp_path / "out.npz", "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert len(np.load(tmp_path / "out.npz")["energies"]) == 7
    assert run("export", tmp_path / "out.csv", "--cache", cache).returncode == 1


def test_export_writes_over_nothing_else(cache: Path, tmp_path: Path) -> None:
    # Not over a store, named first by mistake, nor over one of its files, nor over a folder.
    store = FingerprintStore(str(cache / "stores" / "abc.lmdb"))
    for path in (store.path, store.parts[0][1].path):
        before = path.read_bytes()
        done = run("export", path, "--format", "npz", "--cache", cache)
        assert done.returncode == 1
        assert "a store's name" in done.stderr
        assert path.read_bytes() == before
    (tmp_path / "mine.npz").mkdir()
    assert run("export", tmp_path / "mine.npz", "--cache", cache).returncode == 1
    assert (tmp_path / "mine.npz").is_dir()
    assert len(store.load(np.arange(7))) == 7
