from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from fake_trainer import FakeTrainer
from typer.testing import CliRunner

from ampflow.cli.studies import app
from ampflow.errors import OptionError, StorageError
from ampflow.tuning.passwords import storage_password
from ampflow.tuning.storage import open_storage
from ampflow.tuning.study import open_study, trial_table
from ampflow.tuning.worker import run_worker

SECRET = "correct-horse-9"


@pytest.fixture(autouse=True)
def nothing_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMPFLOW_STORAGE_PASSWORD", raising=False)
    monkeypatch.delenv("AMPFLOW_STORAGE_PASSWORD_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def guarded(mysql: str) -> str:
    """URL of the database for a user who has a password."""
    engine = sqlalchemy.create_engine(mysql.replace("mysql:", "mysql+pymysql:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP USER IF EXISTS careful@'127.0.0.1'")
        connection.exec_driver_sql(f"CREATE USER careful@'127.0.0.1' IDENTIFIED BY '{SECRET}'")
        connection.exec_driver_sql("GRANT ALL ON studies.* TO careful@'127.0.0.1'")
    engine.dispose()
    return mysql.replace("//me@", "//careful@")


def write_password(tmp_path: Path, mode: int = 0o600) -> Path:
    path = tmp_path / "config" / "ampflow" / "storage-password"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SECRET + "\n")
    path.chmod(mode)
    return path


def test_where_the_password_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_password() is None
    path = write_password(tmp_path)
    assert storage_password() == SECRET
    other = path.rename(tmp_path / "other")
    monkeypatch.setenv("AMPFLOW_STORAGE_PASSWORD_FILE", str(other))
    assert storage_password() == SECRET
    monkeypatch.setenv("AMPFLOW_STORAGE_PASSWORD", "first")
    assert storage_password() == "first"
    monkeypatch.delenv("AMPFLOW_STORAGE_PASSWORD")
    other.unlink()
    with pytest.raises(StorageError, match="other: no such file"):
        storage_password()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_can_read(tmp_path: Path, mode: int) -> None:
    path = write_password(tmp_path, mode)
    with pytest.raises(StorageError, match="others may read") as error:
        storage_password()
    assert error.value.hint == f"chmod 600 {path}"
    assert SECRET not in str(error.value)


# A password is used, and is found in nothing that a run leaves or says.
@pytest.mark.parametrize("way", ["environment", "file"])
def test_password_is_nowhere(
    make_spec: Any, tmp_path: Path, guarded: str, way: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any,
) -> None:  # fmt: skip
    with pytest.raises(StorageError, match="Access denied") as error:
        open_storage(guarded, Path())
    assert "AMPFLOW_STORAGE_PASSWORD" in str(error.value.hint)
    if way == "environment":
        monkeypatch.setenv("AMPFLOW_STORAGE_PASSWORD", SECRET)
    else:
        file = write_password(tmp_path)
    caplog.set_level(logging.DEBUG)
    spec = make_spec(trials=2, storage=guarded, seed=len(way))
    assert run_worker(spec, "w", objective=FakeTrainer(tmp_path / "diary")).complete == 2
    if way == "file":
        file.unlink()
    study = open_study(spec) if way == "environment" else None
    processes = subprocess.check_output(["ps", "axww", "-o", "args"], text=True)
    said = capfd.readouterr()
    shown = (processes, said.out, said.err, caplog.text, repr(spec), repr(study), spec.location)
    assert caplog.text
    assert not [text for text in shown if SECRET in text]
    if study is not None:
        assert SECRET not in trial_table(study).to_csv() + repr(vars(study)) + repr(study._storage)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


# A wrong one is told without saying which, and so is a server that went away.
def test_wrong_password(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPFLOW_STORAGE_PASSWORD", "wrong-horse")
    for url in (guarded, "postgresql://me@127.0.0.1:1/db"):
        with pytest.raises(StorageError) as error:
            open_storage(url, Path())
        assert "wrong-horse" not in f"{error.value!r} {error.value} {error.value.__cause__!r}"


# A URL on the command line is in every list of processes.
def test_password_on_the_command_line() -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1/db"
    result = CliRunner().invoke(app, ["list", "--storage", url])
    assert isinstance(result.exception, OptionError)
    assert SECRET not in str(result.exception) + result.output
