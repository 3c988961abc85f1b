from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import optuna
import pytest

from ampflow.errors import StorageError
from ampflow.tuning.database import Database
from ampflow.tuning.storage import explain_storage_errors, open_storage, shown


def trials(storage: optuna.storages.BaseStorage) -> int:
    return len(optuna.load_study(study_name="s", storage=storage).trials)


# A full disk cuts a line short. The next writer removes the piece, and the rest is all there.
def test_journal_heals_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    storage = open_storage("", path)
    optuna.create_study(study_name="s", storage=storage).ask()
    with path.open("a") as stream:
        stream.write('{"op_code":4,"study_id":0,"da')
    other = open_storage("", path)
    assert trials(other) == 1
    optuna.load_study(study_name="s", storage=other).ask()
    assert trials(storage) == trials(open_storage("", path)) == 2


def hold_lock_and_die(path: Path) -> None:
    import fcntl

    with path.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)


# The journal's lock ends with a killed holder: nobody waits for it.
def test_lock_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    storage = open_storage("", path)
    optuna.create_study(study_name="s", storage=storage)
    process = multiprocessing.get_context("spawn").Process(target=hold_lock_and_die, args=(path,))
    process.start()
    process.join()
    optuna.load_study(study_name="s", storage=storage).ask()
    assert trials(storage) == 1


def test_damaged_journal(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    path.write_text("not a journal\n{}\n")
    with pytest.raises(StorageError, match=r"s\.log: damaged"):
        open_storage("", path)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        open_storage("", tmp_path / "file" / "s.log")


# The lock, or the synchronous mode, of each connection; and WAL, which lasts.
def test_sqlite_is_set_up_for_many_writers(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/new/s.db", Path())
    assert isinstance(storage, Database)
    optuna.create_study(study_name="s", storage=storage)
    with storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def test_database_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("x" * 5000)
    with pytest.raises(StorageError, match=r"s\.db: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/s.db", Path())


# What a user sees when a server is away: which one, and never the password.
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/db", r"postgresql\+psycopg2://me:\*\*\*@127.0.0.1"),
        ("postgresql+nothing://me:s3cret@h/db", "no such kind of database"),
        ("oracle+oracledb://me:s3cret@h/db", "driver.*not installed"),
        ("s3cret", "not the URL of a database"),
    ],
)
def test_database_that_cannot_be_used(url: str, said: str) -> None:
    with pytest.raises(StorageError, match=said) as error:
        open_storage(url, Path())
    assert "s3cret" not in f"{error.value!r} {error.value}"


def test_password_is_not_shown() -> None:
    assert shown("postgresql://me:s3cret@h/db") == "postgresql+psycopg2://me:***@h/db"


# Errors while working are told in the driver's words, without statement and parameters.
def test_error_of_a_database_at_work(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", Path())
    study = optuna.create_study(study_name="s", storage=storage)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("DROP TABLE trials")
    with (
        pytest.raises(StorageError, match=r"^here: no such table: trials\n"),
        explain_storage_errors("here"),
    ):
        study.get_trials()
