"""What a user may do wrong: each mistake gets one clear message, exit code 1, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

from ampflow.demo import write_demo


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo.traj"
    write_demo(path, count=20, seed=3)
    return path


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_says(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


def test_wrong_paths(ampflow, tmp_path: Path) -> None:
    # The path is named, and what to check.
    assert_says(ampflow("check", "--data", "no.traj"), "no.traj: no such file", "--data")
    assert_says(ampflow("run", "no.toml"), "no.toml: no such file")
    before = ampflow("status").stdout
    for command in ("run", "split"):
        assert_says(ampflow(command, "--data", "no.traj"), "no.traj: no such file", "--data")
    assert ampflow("status").stdout == before  # what could not begin is no run
    assert_says(ampflow("run"), "neither an experiment file nor --data")


def test_a_typo_in_an_option(ampflow, data: Path) -> None:
    # The option that was meant is named.
    done = ampflow("run", "--data", data, "--set", "tuning.trails=5")
    assert_says(done, "tuning.trails: no such option", "trials")


def test_a_file_without_energies(ampflow, tmp_path: Path) -> None:
    # The first structure that lacks one is named, and how to leave such out.
    path = tmp_path / "bare.xyz"
    ase.io.write(path, [molecule("H2O"), molecule("CO")], format="extxyz")
    done = ampflow("run", "--data", path, "--out", tmp_path / "out")
    assert_says(done, "bare.xyz, structure 0: it has no energy", "on_bad")
    assert "1 more" not in done.stderr


def test_not_a_structure_file(ampflow, tmp_path: Path) -> None:
    # ASE's own complaint, with the file.
    (tmp_path / "a.traj").write_text("hello")
    assert_says(ampflow("check", "--data", "a.traj"), "a.traj", "ASE cannot read it")


def test_too_few_structures(ampflow, data: Path, tmp_path: Path) -> None:
    # The part that is empty is named.
    path = tmp_path / "two.traj"
    ase.io.write(path, ase.io.read(data, ":2"))
    done = ampflow("split", "--data", path, "--out", tmp_path / "out")
    assert_says(done, "part of the split is empty (2 structures")


def test_an_unwritable_folder(ampflow, data: Path) -> None:
    # /proc refuses new folders even to root, as a read-only disk would.
    done = ampflow("fingerprint", "--data", data, "--out", "/proc/ampflow")
    assert_says(done, "/proc/ampflow", "--out")


def test_a_full_disk(ampflow, data: Path, tiny_disk: Path) -> None:
    # Said as such; no half-written store is left.
    done = ampflow("fingerprint", "--data", data, "--out", tiny_disk / "out")
    assert_says(done, "the disk is full", "free some space")
    assert not list((tiny_disk / "out" / "cache" / "stores").glob("*.lmdb"))


def test_wrong_usage_ends_with_2(ampflow) -> None:
    # Scripts can tell a wrong command line from a failed run.
    for arguments in (["run", "--bogus"], ["bogus"], ["studies", "show"]):
        done = ampflow(*arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr


def test_init_does_not_overwrite(ampflow, tmp_path: Path) -> None:
    # What a user wrote is not lost.
    assert ampflow("init", "a.toml").returncode == 0
    assert "tuning.space" in (tmp_path / "a.toml").read_text()
    (tmp_path / "a.toml").write_text("seed = 5")
    assert_says(ampflow("init", "a.toml"), "already there", "--force")
    assert (tmp_path / "a.toml").read_text() == "seed = 5"


def test_check_shows_the_plan(ampflow, data: Path, tmp_path: Path) -> None:
    # What would be done, from real structures; nothing is written.
    done = ampflow("check", "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in ("20", "32 an atom", "to be computed", "MB free", "4.4 Å (7"):
        assert words in done.stdout
    assert not (tmp_path / "out").exists()


def test_check_refuses_what_a_run_would(ampflow, data: Path) -> None:
    # A grid needs steps: said before anything is computed.
    done = ampflow("check", "--data", data, "--set", "tuning.sampler=grid")
    assert_says(done, "without a step", "choices")


def test_a_server_that_does_not_answer(served, data: Path, tmp_path: Path) -> None:
    # PREFECT_API_URL is named, before anything is computed.
    command = [
        Path(sys.executable).with_name("ampflow"),
        "split",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command,
        env=served | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True,
        text=True,
    )
    assert_says(done, "PREFECT_API_URL=http://127.0.0.1:9/api", "unset")


def test_help_imports_nothing_slow() -> None:
    # `ampflow --help` is instant.
    code = "import sys, ampflow.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "prefect", "optuna", "numba", "pandas", "ase", "distributed", "plotly"}
    assert not slow & set(done.stdout.split())


def test_help_names_the_commands(ampflow) -> None:
    # The first page shows where to go.
    done = ampflow("--help")
    for command in ("init", "check", "run", "studies", "ui"):
        assert command in done.stdout
