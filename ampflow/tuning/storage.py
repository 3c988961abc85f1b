"""Where studies are kept: a journal file each, or a database."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ampflow.errors import StorageError
from ampflow.files import explain_os_error
from ampflow.tuning.database import Database
from ampflow.tuning.journal import Journal
from ampflow.tuning.mounts import check_journal, check_sqlite
from ampflow.tuning.passwords import storage_password
from ampflow.tuning.tables import Tables

__all__ = ["explain_storage_errors", "open_storage", "shown"]

# What SQLAlchemy calls a database, the driver we use for it, and the package that has it.
_DRIVERS = {"postgresql": ("psycopg2", "psycopg2-binary"), "mysql": ("pymysql", "pymysql")}
_SECONDS_TO_WAIT = 60  # for another process's lock on SQLite
_SECONDS_TO_CONNECT = 10
_FROZEN = 20  # seconds after which a server ends the transaction of a process that is stopped
_SILENT = 90  # seconds after which a server that does not answer is given up
_FLEETING = ("intermediate_value", "param_name", "user_attr", "system_attr")


def shown(url: str) -> str:
    """Return a database URL as it may be shown: without its password."""
    return _parse(url).render_as_string(hide_password=True)


def open_storage(url: str, journal: Path) -> BaseStorage:
    """Open the storage of a study, creating it where there is none.

    Parameters
    ----------
    url
        Of a database; empty: the journal file.
    journal
        The journal file. One study in each, so that opening one does not read them all.

    Raises
    ------
    StorageError
        If it cannot be reached, read or written, or its driver is not installed.
    """
    # Optuna's messages go where the program's own go, instead of straight to the terminal.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return _open_database(url) if url else _open_journal(journal)


@contextmanager
def explain_storage_errors(where: str) -> Iterator[None]:
    """Turn what databases and files raise into a `StorageError` that names `where`."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        # Only the driver's own words: SQLAlchemy's hold the statement and its parameters.
        said = _cause(error)
        refused = any(word in said.lower() for word in ("password", "access denied"))
        hint = "is AMPFLOW_STORAGE_PASSWORD right?" if refused else "check that the database runs"
        raise StorageError(f"{where}: {said}", hint, fleeting=True) from None
    except OSError as error:
        raise explain_os_error(error, Path(error.filename or where)) from error


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _open_journal(path: Path) -> BaseStorage:
    with explain_storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            storage = Journal(_File(path))
        except (ValueError, KeyError) as error:
            raise StorageError(
                f"{path}: damaged study journal ({error})",
                "delete the file; trained networks are kept apart from it and are found again",
            ) from error
        check_journal(path)
        return storage


class _File(JournalFileBackend):
    """Optuna's journal with a lock that ends with its holder and lines that are never half.

    Optuna's own locks are files, which a killed process leaves behind for others to wait for.
    A line that a full disk cut short is removed by the next writer; Optuna's backend would
    write on behind it, and nobody could read the journal any more.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines, and see that they reach the disk if a trial's fate is among them."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._path.open("r+b") as stream:  # closing it ends the lock
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(_end_of_lines(stream))
            stream.truncate()
            stream.write(text.encode())
            stream.flush()
            # Waiting for the disk at each report would cost more than all else. What follows
            # in the same file, such as the trial's end, takes the reports to the disk with it.
            if not all(any(key in log for key in _FLEETING) for log in logs):
                fcntl.flock(stream, fcntl.LOCK_UN)  # others need not wait for the disk
                os.fsync(stream.fileno())


def _end_of_lines(stream: BinaryIO) -> int:
    """Return where the last complete line of `stream` ends."""
    end = stream.seek(0, os.SEEK_END)
    block = 1
    while end:
        start = max(0, end - block)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end, block = start, 1 << 16
    return 0


def _parse(url: str) -> sqlalchemy.URL:
    hint = "postgresql://user@host/name"
    try:
        parsed = sqlalchemy.make_url(url)
        if parsed.drivername in _DRIVERS:
            driver = f"{parsed.drivername}+{_DRIVERS[parsed.drivername][0]}"
            parsed = parsed.set(drivername=driver)
        parsed.get_dialect()
    except NoSuchModuleError:
        kind = parsed.drivername
        raise StorageError(f"tuning.storage: no such kind of database: {kind}", hint) from None
    except ArgumentError:
        raise StorageError("tuning.storage: not the URL of a database", hint) from None
    return parsed


def _open_database(url: str) -> BaseStorage:
    parsed = _parse(url)
    where = parsed.render_as_string(hide_password=True)
    try:
        with explain_storage_errors(where):
            return _create(parsed)
    except ImportError:
        package = dict(_DRIVERS.values()).get(parsed.get_driver_name(), "its Python driver")
        raise StorageError(
            f"{where}: the driver for this database is not installed", f"pip install {package}"
        ) from None
    except RuntimeError as error:  # tables of another version of Optuna
        raise StorageError(f"{where}: {error}", "use another database, or upgrade it") from None


def _create(url: sqlalchemy.URL) -> BaseStorage:
    text = url.render_as_string(hide_password=False)
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            check_sqlite(Path(url.database))
        storage = _with_tables(text, connect_args={"timeout": _SECONDS_TO_WAIT})
    else:
        storage = _with_tables(text, pool_pre_ping=True, connect_args=_arguments(url))
    sqlalchemy.event.listen(storage.engine, "connect", _set_up(backend))
    storage.engine.dispose()  # so that the connection made already is set up as well
    return Database(storage)


def _arguments(url: sqlalchemy.URL) -> dict[str, Any]:
    """Return what the driver is to be told: the password too, which is in no URL then."""
    arguments: dict[str, Any] = {}
    match url.get_backend_name():
        case "postgresql":
            arguments = {"keepalives_idle": _SILENT // 3, "keepalives_interval": _SILENT // 6}
            arguments |= {"keepalives_count": 4, "tcp_user_timeout": 1000 * _SILENT}
        case "mysql":  # longer than it lets a statement wait for a lock
            arguments = {"read_timeout": _SILENT, "write_timeout": _SILENT}
        case _:
            return {}
    arguments["connect_timeout"] = _SECONDS_TO_CONNECT
    password = None if url.password else storage_password()
    return arguments if password is None else arguments | {"password": password}


def _set_up(backend: str) -> Callable[[Any, Any], None]:
    """Return what prepares each new connection.

    A process that is stopped in the middle of a transaction holds locks that all others wait
    for. PostgreSQL can end such a transaction. MySQL ends a connection that says nothing, with
    its transaction; the pool makes a new one where that was merely idle.
    """
    statements = {
        "sqlite": ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"],
        "postgresql": [f"SET idle_in_transaction_session_timeout = {1000 * _FROZEN}"],
        "mysql": [f"SET SESSION wait_timeout = {_FROZEN}"],
    }.get(backend, [])

    def set_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    return set_up


def _with_tables(url: str, **options: Any) -> Tables:
    try:
        return Tables(url, engine_kwargs=options)
    except SQLAlchemyError:
        # Two that meet an empty database both create the tables, and one of them fails.
        return Tables(url, engine_kwargs=options)
