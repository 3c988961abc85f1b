from __future__ import annotations

import numpy as np
import pytest

from ampflow.committee import make_committee
from ampflow.demo import write_demo
from ampflow.errors import DataError
from ampflow.experiment import Choices, Data, Training, Tuning
from ampflow.fingerprinting import find_source, fingerprint
from ampflow.fingerprints import GMP
from ampflow.splits import Splits
from ampflow.tuning.results import CHECKPOINT, trial_folder
from ampflow.tuning.spec import StudySpec
from ampflow.tuning.study import best_training
from ampflow.tuning.worker import run_worker


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    """A finished study of four trainings on demo structures."""
    folder = tmp_path_factory.mktemp("study")
    write_demo(folder / "demo.traj", count=40, seed=1)
    data = Data(files=[str(folder / "demo.traj")])
    descriptor = GMP(sigmas=[1.0, 2.0], orders=[0, 1], cutoff=4.0)
    store = fingerprint(find_source(data), data, descriptor, folder / "a.lmdb")
    Splits(*np.split(np.arange(40), [24, 32])).write(folder / "split.json")
    space = {"num_nodes": Choices(choices=[4, 8]), "lr": Choices(choices=[1e-3, 1e-2])}
    tuning = Tuning(trials=4, sampler="grid", pruner="none", space=space)
    training = Training(num_layers=1, epochs=5)
    split = folder / "split.json"
    spec = StudySpec(store.path, split, "data", training, tuning, 0, folder / "cache")
    assert run_worker(spec, "w").ended == "done"
    return spec


# Members are the study's best trainings, taken from their checkpoints and not trained again; the
# figures are those of the ensemble on the test part.
def test_members_are_the_best_trials(spec: StudySpec) -> None:
    best = best_training(spec)
    assert best is not None
    checkpoint = trial_folder(spec, best) / CHECKPOINT
    before = checkpoint.stat().st_mtime_ns
    made = make_committee(spec, members=3, level=0.6)
    assert checkpoint.stat().st_mtime_ns == before
    assert made.ensemble.members[0].options == best
    assert len({member.options.model_dump_json() for member in made.ensemble.members}) == 3
    figures = made.figures
    assert (figures.structures, figures.members, figures.level) == (8, 3, 0.6)
    assert 0 <= figures.coverage <= 1
    assert figures.half_width_ev > 0


# More members than trials, or too little validation for the level, is an error that says so.
def test_too_little(spec: StudySpec) -> None:
    with pytest.raises(DataError, match="9 from 4 different"):
        make_committee(spec, members=9)
    with pytest.raises(DataError, match="8 structures are too few"):
        make_committee(spec, members=2, level=0.95)
