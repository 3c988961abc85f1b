"""Private database servers from Debian's packages, on loopback, in folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ampflow.cli.engine import free_port


class NotInstalled(Exception):  # noqa: N818 - nothing went wrong
    """The server's package is not installed."""


@contextmanager
def postgresql_server() -> Iterator[str]:
    """URL of a private PostgreSQL server, from Debian's package."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise NotInstalled("no PostgreSQL server installed (Debian: postgresql)")
    # The server refuses to run as root, and its user cannot enter pytest's folders.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(subprocess.check_output(["mktemp", "-d"], user=user, text=True).strip())
    port = free_port()
    subprocess.run(
        [programs[-1] / "initdb", "-D", folder / "db", "-A", "trust", "-U", "me", "--no-sync"],
        user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    server = subprocess.Popen(
        [programs[-1] / "postgres", "-D", folder / "db", "-k", folder, "-p", str(port), "-F",
         "-c", "max_connections=500"],
        user=user, cwd=folder, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ready = [programs[-1] / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready).returncode and server.poll() is None:
            time.sleep(0.05)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for open connections
        server.wait()
        shutil.rmtree(folder)


@contextmanager
def mysql_server() -> Iterator[str]:
    """URL of a private MariaDB server, from Debian's package."""
    server_program = shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if server_program is None:
        raise NotInstalled("no MySQL server installed (Debian: mariadb-server)")
    user = "mysql" if os.geteuid() == 0 else None
    folder = Path(subprocess.check_output(["mktemp", "-d"], user=user, text=True).strip())
    port = free_port()
    data = ["--no-defaults", f"--datadir={folder}/db"]
    subprocess.run(
        ["mariadb-install-db", *data, "--auth-root-authentication-method=normal"],
        user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with (folder / "start.sql").open("w") as script:
        script.write("CREATE DATABASE studies;\nCREATE USER me@'127.0.0.1';\n")  # one a line
        script.write("GRANT ALL ON *.* TO me@'127.0.0.1' WITH GRANT OPTION;\n")
    server = subprocess.Popen(
        [server_program, *data, f"--port={port}", "--bind-address=127.0.0.1",
         f"--socket={folder}/s", f"--init-file={folder}/start.sql", "--skip-name-resolve",
         "--max-connections=500"],
        user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while server.poll() is None:  # it listens once its start script is done
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"mysql://me@127.0.0.1:{port}/studies"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)
