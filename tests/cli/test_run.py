"""The whole path, through the command line, on structures with a real energy function."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pandas as pd
import psutil
import pytest

import ampflow as library
from ampflow.demo import write_demo
from ampflow.store import FingerprintStore
from ampflow.tuning.study import list_studies, trials_of

SMALL = (
    "--set", "tuning.trials=3", "--set", "training.epochs=4", "--set", "tuning.workers=2",
)  # fmt: skip


@pytest.fixture(scope="session")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo.traj"
    write_demo(path, count=60, seed=1)
    return path


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def modified(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_a_run_and_what_changes_redo(ampflow, structures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("run", "--data", structures, "--out", out, *SMALL)

    # A first run: report, tables and model are there, and the figures are those of the tables.
    first = ampflow(*arguments)
    assert first.returncode == 0, first.stderr
    assert "Linear reference" in first.stdout
    found = results(out)
    assert (found["structures"], found["features"], found["seed"]) == (60, 32, 0)
    assert sum(found["trials"].values()) == 3
    assert set(found["seconds"]) == {"fingerprints", "split", "tuning", "winner"}
    table = pd.read_csv(out / "predictions.csv")
    test = table[table["part"] == "test"]
    mae = (test["predicted_ev"] - test["energy_ev"]).abs().mean()
    assert found["test_mae_ev"] == pytest.approx(mae)
    assert "<html" in (out / "report.html").read_text()

    # What a reader should know is said by the run, its results and its report.
    assert "4.4 Å (7" in first.stdout
    assert "4.4 Å (7" in found["notes"][0]
    assert "4.4 Å (7" in (out / "report.html").read_text()

    # The saved model is an ASE calculator that gives the energies of the table.
    atoms = ase.io.read(structures, index=int(test["index"].iloc[0]))
    atoms.calc = library.load(out / "model")
    assert atoms.get_potential_energy() == pytest.approx(test["predicted_ev"].iloc[0], abs=1e-5)

    # A second run recomputes nothing, writes nothing, and says so.
    before = modified(out)
    second = ampflow(*arguments)
    assert second.returncode == 0, second.stderr
    for step in ("Fingerprints", "Split", "Winner", "Report"):
        assert f"{step}: 1/1 cached" in second.stderr
    assert "Tuning: 3/3 there already" in second.stderr
    assert modified(out) == before

    # More trials are added to the same study; fingerprints and split stay.
    more = ampflow(*arguments, "--set", "tuning.trials=5")
    assert more.returncode == 0, more.stderr
    assert "Fingerprints: 1/1 cached" in more.stderr
    (study,) = list_studies(out / "cache")
    assert study.finished == 5
    assert sum(results(out)["trials"].values()) == 5

    # A missing artifact is made again, though Prefect remembers having made it.
    (store,) = (out / "cache" / "stores").glob("*.lmdb")
    store.unlink()
    again = ampflow("fingerprint", "--data", structures, "--out", out)
    assert again.returncode == 0, again.stderr
    assert "60/60" in again.stderr
    assert len(FingerprintStore(store)) == 60


@pytest.mark.slow
def test_fingerprints_are_searched(ampflow, structures: Path, tmp_path: Path) -> None:
    # From one file: descriptors are searched with the network, the model has the winner's own,
    # the report shows error against cost, and a second run finds all of it there.
    out = tmp_path / "out"
    (tmp_path / "searched.toml").write_text(SEARCHED)
    arguments = ("run", "searched.toml", "--data", structures, "--out", out, *SMALL)
    first = ampflow(*arguments)
    assert first.returncode == 0, first.stderr
    found = results(out)
    cutoff = found["best_params"]["fingerprints.cutoff"]
    count = found["best_params"]["fingerprints.sigmas.number"]
    model = library.load(out / "model").potential.fingerprints
    assert (model.cutoff, model.num_features) == (cutoff, 2 * count)
    assert found["features"] == 2 * count
    page = (out / "report.html").read_text()
    assert "figure-costs" in page
    table = pd.read_csv(out / "predictions.csv")
    test = table[table["part"] == "test"]
    atoms = ase.io.read(structures, index=int(test["index"].iloc[0]))
    atoms.calc = library.load(out / "model")
    assert atoms.get_potential_energy() == pytest.approx(test["predicted_ev"].iloc[0], abs=1e-5)
    before = modified(out)
    again = ampflow(*arguments)
    assert again.returncode == 0, again.stderr
    assert modified(out) == before


SEARCHED = """
[fingerprints]
sigmas = [0.5, 2.0]
orders = 1

[tuning.space]
lr = { low = 1e-3, high = 1e-2 }
fingerprints.cutoff = { choices = [3.0, 4.0] }
fingerprints.sigmas.number = { low = 3, high = 5 }
"""


def _start(served: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    command = [Path(sys.executable).with_name("ampflow"), *map(str, arguments)]
    return subprocess.Popen(
        command, env=served, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finished(cache: Path) -> set[int]:
    if not (cache / "studies").is_dir():
        return set()
    ended = {"complete", "pruned", "failed"}
    return {
        int(row["number"])
        for study in list_studies(cache)
        for row in trials_of(study.name, cache).to_dict("records")
        if row["state"] in ended
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(
    served: dict[str, str], ampflow, structures: Path, tmp_path: Path, how: signal.Signals
) -> None:
    # Ctrl-C or kill -9 in the middle of tuning, then the same command: no finished trial is
    # lost, the number of trials is what was asked for, and no process stays behind.
    out = tmp_path / "out"
    arguments = (
        "run", "--data", structures, "--out", out, "--set", "tuning.trials=6",
        "--set", "training.epochs=1500", "--set", "tuning.workers=2", "--set", "tuning.pruner=none",
    )  # fmt: skip
    process = _start(served, *arguments)
    deadline = time.monotonic() + 300
    while not _finished(out / "cache"):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no trial was finished"
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    said = process.communicate(timeout=300)[1]
    code = process.returncode
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert ("goes on from here" in said) == (how == signal.SIGINT)
    _, alive = psutil.wait_procs(children, timeout=300)
    assert not alive
    finished = _finished(out / "cache")
    assert 1 <= len(finished) < 6
    again = ampflow(*arguments)
    assert again.returncode == 0, again.stderr
    assert finished <= _finished(out / "cache")
    assert sum(results(out)["trials"].values()) == 6
    assert results(out)["trials"]["complete"] == 6


def test_train_without_a_search(ampflow, structures: Path, tmp_path: Path) -> None:
    # One set of hyperparameters gives a model and a report with no trials.
    out = tmp_path / "out"
    done = ampflow("train", "--data", structures, "--out", out, "--set", "training.epochs=5")
    assert done.returncode == 0, done.stderr
    assert results(out)["trials"]["complete"] == 0
    assert (out / "model" / "model.json").is_file()
    assert results(out)["test_mae_ev"] > 0


def test_works_with_no_server_running(
    environment: dict[str, str], structures: Path, tmp_path: Path
) -> None:
    # Prefect's own server is started for the run, and ended with it.
    command = Path(sys.executable).with_name("ampflow")
    done = subprocess.run(
        [command, "split", "--data", structures, "--out", tmp_path / "out"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "48 train, 6 validation, 6 test" in done.stdout
    assert not _orphans(environment["PREFECT_HOME"])


def _orphans(home: str) -> list[int]:
    """Servers that outlived the command that started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        if "ampflow.cli.embedded_server" not in (process.info["cmdline"] or []):
            continue
        if process.environ().get("PREFECT_HOME") == home and process.info["ppid"] != os.getpid():
            found.append(process.pid)
    return found
