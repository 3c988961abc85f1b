from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_trainer import FakeTrainer

from ampflow import descriptors
from ampflow.committee import make_committee
from ampflow.demo import write_demo
from ampflow.descriptors import Cost, describe_store, described_path
from ampflow.errors import DataError
from ampflow.experiment import Experiment
from ampflow.experiment_file import make_experiment
from ampflow.fingerprinting import find_source, fingerprint, make_descriptor, store_path
from ampflow.fingerprints import GMP
from ampflow.layout import Layout
from ampflow.planning import make_plan
from ampflow.splits import Splits, ensure_splits, splits_digest
from ampflow.store import FingerprintStore
from ampflow.tuning.described import described_store
from ampflow.tuning.leases import Leases
from ampflow.tuning.objective import _parts
from ampflow.tuning.replay import replay_study
from ampflow.tuning.results import CHECKPOINT, trial_folder
from ampflow.tuning.spec import StudySpec, study_spec
from ampflow.tuning.study import best_fingerprints, best_training, copy_study, open_study
from ampflow.tuning.worker import run_worker
from ampflow.winner import train_winner

SPACE = {
    "lr": {"choices": [1e-2, 1e-3]},
    "fingerprints.cutoff": {"choices": [3.0, 4.0]},
    "fingerprints.sigmas.number": {"low": 2, "high": 3},
}


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., tuple[Experiment, StudySpec]]:
    """Make the study of an experiment on 24 demo structures, whose base store is there."""
    write_demo(tmp_path / "demo.traj", count=24, seed=1)

    def make(out: str = "out", **options: Any) -> tuple[Experiment, StudySpec]:
        table = {
            "out": str(tmp_path / out),
            "cache": str(tmp_path / "cache"),
            "data": {"files": [str(tmp_path / "demo.traj")]},
            "fingerprints": {"sigmas": [0.5, 1.0, 2.0], "orders": 1, "cutoff": 3.5},
            "training": {"num_layers": 1, "num_nodes": 4, "epochs": 3},
            "tuning": {"trials": 8, "sampler": "grid", "pruner": "none", "space": SPACE},
        }
        for section, changed in options.items():
            table[section] |= changed
        experiment = make_experiment(table)
        layout, source = Layout.of(experiment), find_source(experiment.data)
        descriptor = make_descriptor(experiment.fingerprints)
        path = store_path(layout.stores, source, experiment.data, descriptor)
        store = fingerprint(source, experiment.data, descriptor, path)
        name = splits_digest(store.header["structures"], experiment.split, experiment.seed)
        split = layout.splits / f"{name}.json"
        ensure_splits(store, experiment.split, experiment.seed, split)
        return experiment, study_spec(experiment, store.path, split)

    return make


def store_names(spec: StudySpec) -> Counter[str]:
    """Count the trials of each store."""
    told = [trial.user_attrs["end"]["fingerprints"] for trial in open_study(spec).trials]
    return Counter(cost["store"] for cost in told)


# Every distinct descriptor is computed once, its cost is told with each of its trials, and the
# winner is the best of them all with the fingerprints that it was trained on.
def test_fingerprints_are_searched(make_study: Any) -> None:
    _, spec = make_study()
    assert run_worker(spec, "w").complete == 8
    trials = open_study(spec).trials
    costs = [Cost(**trial.user_attrs["end"]["fingerprints"]) for trial in trials]
    assert len({cost.store for cost in costs}) == 4
    assert {cost.features for cost in costs} == {4, 6}
    assert all(cost.seconds > 0 and cost.ms_per_structure > 0 for cost in costs)
    best = min(trials, key=lambda trial: trial.value)
    fingerprints, training = best_fingerprints(spec), best_training(spec)
    assert fingerprints.cutoff == best.params["fingerprints.cutoff"]
    assert training.lr == best.params["lr"]
    assert trial_folder(spec, training, fingerprints).is_dir()
    assert not Leases(spec.cache / "claims" / "stores", "w").newest()
    # However many descriptors there are, a process holds the data of two at most.
    assert _parts.cache_info().currsize <= 2


# The winner is trained on its own descriptor, from its trial's checkpoint, and carries it.
def test_winner_has_its_own_descriptor(make_study: Any, tmp_path: Path) -> None:
    _, spec = make_study(training={"epochs": 2})
    run_worker(spec, "w")
    fingerprints, training = best_fingerprints(spec), best_training(spec)
    checkpoint = trial_folder(spec, training, fingerprints) / CHECKPOINT
    assert checkpoint.is_file()
    store = described_store(spec, fingerprints)
    winner = train_winner(
        store, Splits.read(spec.split), training, spec.seed, checkpoint, tmp_path / "winner"
    )
    from ampflow.potential.model import Potential

    carried = Potential.load(winner.model).fingerprints
    assert carried.cutoff == fingerprints.cutoff
    assert carried.feature_names == make_descriptor(fingerprints).feature_names
    rows = winner.predictions()
    found = np.abs(rows["predicted_ev"] - rows["energy_ev"])[rows["part"] == "validation"].mean()
    best = min(trial.value for trial in open_study(spec).trials)
    assert found == pytest.approx(best, rel=1e-5)


# The store of a descriptor is the one that `ampflow fingerprint` makes for it, byte for byte the
# same fingerprints; its structures, and so the split, are those of every other descriptor.
def test_same_store_and_structures_for_all(make_study: Any) -> None:
    experiment, spec = make_study()
    trial = spec.fingerprints_of({"fingerprints.cutoff": 4.0, "fingerprints.sigmas.number": 2})
    assert trial.cutoff == 4.0
    assert make_descriptor(trial).sigmas[0] == (0.5, 2.0)
    made = described_store(spec, trial)
    base = FingerprintStore(spec.store)
    for name in ("geometries", "energies", "atoms", "file_indices", "formula_ids"):
        assert np.array_equal(getattr(made.index, name), getattr(base.index, name))
    plain, _ = make_study(fingerprints=trial.model_dump(), tuning={"space": {}}, out="plain")
    source, descriptor = find_source(plain.data), make_descriptor(plain.fingerprints)
    assert store_path(made.path.parent, source, plain.data, descriptor) == made.path
    alone = Path(experiment.out) / "alone.lmdb"
    again = fingerprint(source, plain.data, descriptor, alone)
    assert np.array_equal(again.load().fingerprints, made.load().fingerprints)
    assert again.header["structures"] == made.header["structures"]


# Of a descriptor with more orders only the new columns are computed; of one with fewer, none.
def test_shared_columns_are_not_computed_again(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spec = make_study()  # orders 0 and 1, three sigmas, cutoff 3.5
    computed = set[tuple[str, ...]]()
    compute = GMP.compute_batch

    def note(self: GMP, batch: Any) -> Any:
        computed.add(tuple(self.feature_names))
        return compute(self, batch)

    monkeypatch.setattr(GMP, "compute_batch", note)
    monkeypatch.setattr(descriptors, "_milliseconds", lambda *_: 1.0)
    base = spec.fingerprints
    more, fewer = base.model_copy(update={"orders": 2}), base.model_copy(update={"orders": 0})
    describe_store(spec.store, more)
    new = set(make_descriptor(more).feature_names) - set(make_descriptor(base).feature_names)
    assert [set(names) for names in computed] == [new]
    computed.clear()
    store = describe_store(spec.store, fewer)
    assert not computed
    assert np.array_equal(
        store.load().fingerprints, FingerprintStore(spec.store).load().fingerprints[:, :3]
    )


# A training on some descriptor is the same one, in the same folder, for a study that searches
# fingerprints and for one whose file has them fixed.
def test_trainings_are_shared_with_studies_without_a_search(make_study: Any) -> None:
    _, spec = make_study()
    chosen = spec.fingerprints_of({"fingerprints.cutoff": 4.0, "fingerprints.sigmas.number": 3})
    space = {"lr": {"choices": [1e-2]}}
    _, plain = make_study(fingerprints=chosen.model_dump(), tuning={"space": space})
    other = spec.fingerprints_of({"fingerprints.cutoff": 3.0, "fingerprints.sigmas.number": 3})
    folder = trial_folder(spec, spec.training, chosen)
    assert folder == trial_folder(plain, plain.training)
    assert folder != trial_folder(spec, spec.training, other)


# What is searched does not name the study, whatever [fingerprints] says of it; all else does.
def test_what_names_the_study(make_study: Any) -> None:
    _, spec = make_study()
    _, same = make_study(fingerprints={"cutoff": 5.0})
    _, other = make_study(fingerprints={"orders": 2})
    _, ends = make_study(fingerprints={"sigmas": [0.5, 1.0, 1.5]})
    assert spec.name == same.name
    assert spec.split == same.split == other.split
    assert len({spec.name, other.name, ends.name}) == 3
    assert spec.described["fingerprints"]["orders"] == 1
    assert "cutoff" not in spec.described["fingerprints"]


# Two workers at once: each descriptor is written once, by one of them.
def test_each_descriptor_is_computed_once(
    make_study: Any, trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spec = make_study()
    written, write = Counter[str](), descriptors._write

    def count(path: Path, *rest: Any) -> None:
        written[path.stem] += 1
        write(path, *rest)

    monkeypatch.setattr(descriptors, "_write", count)
    workers = [
        threading.Thread(target=run_worker, args=(spec, name), kwargs={"objective": trainer})
        for name in ("one", "two")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(written) == 4
    assert set(written.values()) == {1}
    assert store_names(spec) == dict.fromkeys(written, 2)


# While somebody computes a descriptor, others do the trials that do not need it.
def test_others_do_other_work(make_study: Any, trainer: FakeTrainer) -> None:
    _, spec = make_study()
    held = spec.fingerprints_of({"fingerprints.cutoff": 4.0, "fingerprints.sigmas.number": 3})
    name = spec.store_of(held).stem
    lease = Leases(spec.cache / "claims" / "stores", "other").claim(name)
    assert lease is not None
    stores: list[str] = []

    def ended(report: Any) -> None:
        stores.append(report.fingerprints["store"])
        if len(stores) == 6:
            lease.release()

    assert run_worker(spec, "w", objective=trainer, on_trial=ended).complete == 8
    assert stores[6:] == [name, name]


# Who computes a descriptor and is killed is followed by the next who needs it.
def test_killed_one_is_taken_over(make_study: Any, trainer: FakeTrainer) -> None:
    _, spec = make_study()
    chosen = spec.fingerprints_of({"fingerprints.cutoff": 4.0, "fingerprints.sigmas.number": 3})
    folder, name = spec.cache / "claims" / "stores", spec.store_of(chosen).stem
    code = (
        "from pathlib import Path; from ampflow.tuning.leases import Leases;"
        f"Leases(Path({str(folder)!r}), 'gone').claim({name!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Leases(folder, "w").newest() == {name: 1}
    assert run_worker(spec, "w", objective=trainer).complete == 8
    assert store_names(spec)[name] == 2


# Stopped between two shards, the worker gives everything back, and another one goes on.
def test_stopped_before_a_shard(make_study: Any, trainer: FakeTrainer) -> None:
    _, spec = make_study()
    asked = iter([False, True])
    stopped = run_worker(spec, "w", objective=trainer, stop=lambda: next(asked))
    assert stopped.ended == "stopped"
    assert not open_study(spec).trials[0].state.is_finished()
    assert run_worker(spec, "v", objective=trainer).complete == 8
    assert len(open_study(spec).trials) == 8


# Replaying, copying and continuing a study know nothing of fingerprints, and need not.
def test_replayed_and_copied(make_study: Any, trainer: FakeTrainer, tmp_path: Path) -> None:
    _, spec = make_study(tuning={"trials": 4, "sampler": "random"})
    run_worker(spec, "w", objective=trainer)
    replay = replay_study(spec.name, spec.cache)
    assert (len(replay.agree), replay.differ) == (4, {})
    url = f"sqlite:///{tmp_path}/copy.db"
    assert copy_study(spec.name, spec.cache, to=url) == 4
    _, copied = make_study(tuning={"trials": 6, "sampler": "random", "storage": url})
    assert best_fingerprints(copied) == best_fingerprints(spec)
    run_worker(copied, "w", objective=trainer)
    assert sum(store_names(copied).values()) == 6


# An ensemble has one descriptor: the best trials with the fingerprints of the best; more than
# there are is refused, and the reason says so.
def test_ensemble_of_one_descriptor(make_study: Any) -> None:
    _, spec = make_study(training={"epochs": 2})
    run_worker(spec, "w")
    members = make_committee(spec, 2, level=0.5).ensemble.members
    expected = make_descriptor(best_fingerprints(spec))
    assert [member.fingerprints.feature_names for member in members] == [
        expected.feature_names,
        expected.feature_names,
    ]
    assert {member.fingerprints.cutoff for member in members} == {expected.cutoff}
    with pytest.raises(DataError, match=r"3 from 2 different .* with the fingerprints of the best"):
        make_committee(spec, 3, level=0.5)


# The cost that is kept is of the store it lies beside; a damaged record is measured again.
def test_cost_is_measured_again(make_study: Any) -> None:
    _, spec = make_study()
    chosen = spec.fingerprints_of({"fingerprints.cutoff": 4.0, "fingerprints.sigmas.number": 3})
    path = described_path(spec.store, chosen)
    described_store(spec, chosen)
    record = path.with_suffix(".cost.json")
    record.write_text("{")
    assert descriptors.read_cost(path) is None
    described_store(spec, chosen)
    cost = descriptors.read_cost(path)
    assert cost is not None
    assert (cost.store, cost.features) == (path.stem, 6)


# `ampflow check` says how many features the largest descriptor of the search has.
def test_plan_tells_the_largest(make_study: Any) -> None:
    experiment, _ = make_study()
    plan = make_plan(experiment)
    assert (plan.features, plan.most_features) == (6, 6)
    plain, _ = make_study(tuning={"space": {"lr": {"choices": [0.1]}}})
    assert make_plan(plain).most_features == 0
