"""What is written over, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ampflow.errors import StorageError
from ampflow.files import atomic_path, write_text


def write_folder(path: Path, *names: str) -> None:
    with atomic_path(path, folder=True) as part:
        part.mkdir()
        for name in names:
            (part / name).write_text("new")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "results.csv"
    folder.mkdir()
    (folder / "thesis.txt").write_text("five years")
    with pytest.raises(StorageError, match=r"results.csv: there is a folder of this name"):
        write_text(folder, "")
    assert (folder / "thesis.txt").read_text() == "five years"
    with pytest.raises(StorageError, match=r"thesis.txt: there is a file of this name"):
        write_folder(folder / "thesis.txt", "model.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["results.csv", "thesis.txt"]


def test_a_folder_replaces_one_of_its_kind(tmp_path: Path) -> None:
    # One that has only what the new one has, or is empty: what else there is would be lost.
    folder = tmp_path / "ensemble"
    folder.mkdir()
    write_folder(folder, "ensemble.json", "member0", "member1")
    write_folder(folder, "ensemble.json", "member0")
    assert sorted(path.name for path in folder.iterdir()) == ["ensemble.json", "member0"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"ensemble: not replaced, as notes.txt would be lost"):
        write_folder(folder, "ensemble.json", "member0")
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["ensemble"]
