from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ampflow.clusters.profile import Profile, seconds_of
from ampflow.clusters.shelf import find_profile, list_profiles, render_profile
from ampflow.errors import OptionError, StorageError

SLURM = {"scheduler": "slurm", "walltime": "02:00:00"}
PBS = {"scheduler": "pbs", "walltime": "02:00:00"}
TORQUE = {"scheduler": "torque", "walltime": "02:00:00"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "ampflow" / "clusters"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("walltime", ["600", "2:00", "1:00:00:00", "02:60:00", "two hours"])
def test_a_walltime_is_hours_minutes_seconds(walltime: str) -> None:
    # 600 is minutes to one scheduler and seconds to another; a third rejects 1:00:00:00.
    with pytest.raises(ValidationError, match="walltime"):
        Profile(scheduler="slurm", walltime=walltime)


def test_a_job_needs_a_walltime() -> None:
    # Without one, dask-jobqueue's 30 minutes or the scheduler's default would hold.
    with pytest.raises(ValidationError, match="walltime"):
        Profile(scheduler="slurm")


@pytest.mark.parametrize(
    ("base", "directive", "reason"),
    [
        (SLURM, "--time=10", "walltime"),
        (SLURM, "-t 10", "walltime"),
        (SLURM, "--output=x", "logs"),
        (SLURM, "-J mine", "name"),
        (SLURM, "#SBATCH --exclusive", "#SBATCH"),
        (PBS, "-l nodes=1:ppn=1:gpus=1", "OpenPBS"),
        (PBS, "-l mem=2gb", "select"),
        (PBS, "-l walltime=600", "walltime"),
        (PBS, "-o here", "ignore"),
        (TORQUE, "-l select=1:ncpus=1:ngpus=1", "select"),
        (TORQUE, "-l pmem=2gb", "ignored"),
        (TORQUE, "-j oe", "ignore"),
        (TORQUE, "-N mine", "name"),
    ],
)
def test_what_a_dialect_ignores_or_rejects_is_refused(base, directive: str, reason: str) -> None:
    # Schedulers do not say so themselves: an ignored directive is found out hours later.
    with pytest.raises(ValidationError, match=reason):
        Profile(**base, directives=[directive])


def test_other_directives_are_kept() -> None:
    # A profile must be able to say what ampflow does not know.
    profile = Profile(**SLURM, directives=["-q inferno", "--exclusive", "--constraint=ib"])
    assert profile.directives == ["-q inferno", "--exclusive", "--constraint=ib"]


@pytest.mark.parametrize("option", ["queue", "account", "walltime", "scratch"])
def test_this_machine_has_no_queue(option: str) -> None:
    # An option without a meaning is a mistake of the user's.
    value = "01:00:00" if option == "walltime" else "x"
    with pytest.raises(ValidationError, match=option):
        Profile(scheduler="local", **{option: value})


def test_workers_become_jobs_within_the_limits() -> None:
    # The number of jobs covers the workers, and is never above maximum_jobs.
    profile = Profile(**SLURM, cores=4, minimum_jobs=2, maximum_jobs=5)
    assert profile.workers_per_job == 4
    assert [profile.jobs_for(n) for n in (0, 1, 4, 5, 20, 99)] == [2, 1, 1, 2, 5, 5]
    assert Profile(**SLURM, cores=4, processes=2).workers_per_job == 2


def test_limits_contradict() -> None:
    with pytest.raises(ValidationError, match="minimum_jobs"):
        Profile(**SLURM, minimum_jobs=3, maximum_jobs=2)
    with pytest.raises(ValidationError, match="processes"):
        Profile(**SLURM, cores=1, processes=2)


def test_seconds() -> None:
    assert seconds_of("02:03:04") == 7384


def test_shipped_profiles_are_valid(config: Path) -> None:
    # What comes with ampflow can be read, and each scheduler is among them.
    found = {item.name: item.read() for item in list_profiles()}
    assert {"laptop", "openpbs", "pace-ice", "pace-ice-gpu", "pace-phoenix"} <= set(found)
    assert {p.scheduler for p in found.values()} == {"local", "slurm", "torque", "pbs"}
    assert all(p.about for p in found.values())


def test_a_users_profile_hides_a_shipped_one(config: Path) -> None:
    (config / "pace-ice.toml").write_text('scheduler = "slurm"\nwalltime = "00:10:00"\n')
    assert find_profile("pace-ice").walltime == "00:10:00"
    assert [item.is_own for item in list_profiles() if item.name == "pace-ice"] == [True]


def test_a_profile_survives_being_written(config: Path) -> None:
    # What `clusters show --profile` prints is a profile, the same one.
    for item in list_profiles():
        (config / "copy.toml").write_text(render_profile(item.read()))
        assert find_profile("copy") == item.read()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('scheduler = "slurm"\nwalltime = 600\n', "walltime"),
        ('scheduler = "slurm"\nwalltime = "600"\n', "HH:MM:SS"),
        ('scheduler = "slurm"\nwall = "01:00:00"\n', "there are"),
        ('scheduler = "sge"\n', "scheduler"),
        ('scheduler = "slurm"\nwalltime = "01:00:00"\nmemory = "4"\n', "unit"),
        ("scheduler = \n", "TOML"),
    ],
)
def test_a_wrong_profile_says_file_and_option(config: Path, text: str, says: str) -> None:
    (config / "mine.toml").write_text(text)
    with pytest.raises(OptionError, match=says) as error:
        find_profile("mine")
    assert "mine.toml" in error.value.what


def test_no_such_profile(config: Path) -> None:
    # The error lists the names there are.
    with pytest.raises(OptionError, match="no such profile") as error:
        find_profile("pace")
    assert "pace-phoenix" in error.value.hint
    with pytest.raises(StorageError):
        find_profile("nowhere.toml")
