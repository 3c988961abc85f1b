"""What one tiny job finds out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ampflow.clusters.probe import _agrees, _reaches, _sees, _stores, _versions


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where nobody waits for slow file systems."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_a_folder_that_is_another_one_there(tmp_path: Path) -> None:
    # Absent or another folder of that name is the same: what was written here is not there.
    (tmp_path / "same").write_text("token")
    assert _sees(tmp_path / "same", "token").works
    for name, token in (("same", "another token"), ("absent", "token")):
        finding = _sees(tmp_path / name, token)
        assert finding.works is False
        assert str(tmp_path) in finding.said
        assert "--folder" in finding.hint


def test_a_storage_that_cannot_be_reached(tmp_path: Path) -> None:
    # It says where, without the password.
    finding = _stores("postgresql://me:hunter2@127.0.0.1:9/studies", tmp_path / "journal.log")
    assert finding.works is False
    assert "127.0.0.1" in finding.said
    assert "hunter2" not in finding.said + finding.hint
    assert _stores("", tmp_path / "journal.log").works


def test_a_server_that_cannot_be_reached() -> None:
    # Without a server there is nothing to find out.
    assert _reaches("").works is None
    finding = _reaches("http://127.0.0.1:9/api")
    assert finding.works is False
    assert "http://127.0.0.1:9/api" in finding.said


def test_versions_that_differ() -> None:
    # Those that differ are named, with both versions.
    ours = _versions()
    assert _agrees(ours).works
    finding = _agrees(ours | {"numba": "0.1"})
    assert finding.works is False
    assert finding.said == f"numba {ours['numba']} (here 0.1)"
