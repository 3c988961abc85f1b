from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ampflow.children import stop_child
from ampflow.cli.engine import free_port, start_server, wait_until_healthy
from ampflow.fingerprints import GMP
from ampflow.images import Image
from ampflow.joining import JoinedShard, join_shards
from ampflow.parts import Part, write_part
from ampflow.reading import Segment
from ampflow.shards import write_structures
from ampflow.source import Shard, Source
from ampflow.store import fingerprints_path, structures_path

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference arrays and real structures."""
    default = Path(__file__).parents[1] / ".." / "shared"
    folder = Path(os.environ.get("AMPFLOW_SHARED", default)).resolve()
    if not (folder / "reference").is_dir():
        pytest.skip(f"no shared reference data at {folder} (set AMPFLOW_SHARED)")
    return folder


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home of the tests' own: the user's is never touched."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def environment(prefect_home: Path) -> dict[str, str]:
    """What a user's shell would have, with no Prefect server running."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    own = {
        "PREFECT_HOME": str(prefect_home),
        "XDG_CONFIG_HOME": str(prefect_home / "config"),
        "XDG_STATE_HOME": str(prefect_home / "state"),
    }
    return kept | own | {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def served(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with PREFECT_API_URL: one real server for all tests, which saves its start."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    settings = {"PREFECT_HOME": environment["PREFECT_HOME"], "PREFECT_UI_ENABLED": "0"}
    server = start_server(port, settings)
    wait_until_healthy(url, server)
    yield environment | {"PREFECT_API_URL": url}
    stop_child(server)


@pytest.fixture
def write_store() -> Callable[..., Path]:
    """Write a store of given structures and fingerprints, in shards of five structures."""

    def write(
        path: Path, images: list[Image], fingerprints: list[np.ndarray], **header: object
    ) -> Path:
        source = Source([Path("/x/a.traj")], ["files"], ["0"], [(0, 0)])
        shards, each = [], 5
        for start in range(0, len(images), each):
            few = images[start : start + each]
            part = structures_path(path, f"{path.stem}-{start}")
            write_structures(part, few, [0] * len(few), [])
            shard = Shard(((0, Segment(start, start + len(few), 1)),))
            shards.append(JoinedShard(shard, Part(part), f"k/d/{path.stem}-{start}"))
            values = {"values": np.concatenate(fingerprints[start : start + each])}
            rows = {"geometry": shards[-1].structures.column("geometry")}
            target = fingerprints_path(path, shards[-1].fingerprints)
            write_part(target, shards[-1].structures.offsets, rows, values, {"features": ["a"]})
        names = [f"f{column}" for column in range(fingerprints[0].shape[1])]
        header = {"digest": path.stem, "features": names, "structures": "s"} | header
        join_shards(path, source, shards, GMP([1.0], [0], 3.0), header, skip=False)
        return path

    return write


@pytest.fixture
def ampflow(served: dict[str, str], tmp_path: Path) -> Command:
    """Run the command as a user does: a process, in a folder of its own."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("ampflow"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=served, capture_output=True, text=True, **options
        )

    return run
