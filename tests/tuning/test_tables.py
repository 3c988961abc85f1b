from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ampflow.tuning.database import Database
from ampflow.tuning.storage import open_storage
from ampflow.tuning.tables import Tables

SPACE = {
    "lr": FloatDistribution(1e-4, 1, log=True),
    "layers": IntDistribution(1, 9, step=2),
    "kind": CategoricalDistribution(["relu", "tanh", None]),
}
STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


pytestmark = pytest.mark.parametrize("storage", ["sqlite", "postgresql", "mysql"], indirect=True)


def trial_of(state: TrialState, value: float) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params={"lr": 0.5, "layers": 3, "kind": None},
        distributions=SPACE,
        user_attrs={"seen": [1, {"0": 2}]},
        system_attrs={"completed_rung_0": 0.25},
        intermediate_values={2: 0.5, 1: math.inf, 3: -math.inf, 4: math.nan},
    )


def fields(trials: list[FrozenTrial]) -> list[object]:
    """Return all that is known of trials; nan like nan."""
    return [
        (
            vars(trial) | {"intermediate_values": repr(sorted(trial.intermediate_values.items()))},
            list(trial.params),
        )
        for trial in trials
    ]


# Trials are read as Optuna reads them, to every field, in the same order, and those of the study
# alone; of those that were read before only the ones that are asked for.
def test_trials_are_as_optuna_reads_them(storage: str, tmp_path: Path) -> None:
    opened = open_storage(storage, tmp_path / "s.log")
    assert isinstance(opened, Database)
    for study_name in ("one", "other"):
        study = optuna.create_study(study_name=f"{tmp_path}/{study_name}", storage=opened)
        study.add_trial(create_trial(state=TrialState.WAITING))
        for state in STATES:
            study.add_trial(trial_of(state, -math.inf))
            study.add_trial(trial_of(state, 0.125))
    tables, key = opened._backend, study._study_id
    assert isinstance(tables, Tables)
    assert len(tables._get_trials(key, None, set(), -1)) == 1 + 2 * len(STATES)

    last = study.trials[-1]._trial_id
    for states, open_ones, after in (
        (None, set(), -1),
        ((TrialState.COMPLETE, TrialState.WAITING), set(), -1),
        (None, {last - 4, last - 8}, last - 2),
        (None, {last - 4}, last),
        (None, set(), last),
    ):
        ours = tables._get_trials(key, states, open_ones, after)
        theirs = RDBStorage._get_trials(tables, key, states, open_ones, after)
        assert fields(ours) == fields(theirs)
    with pytest.raises(KeyError):
        tables._get_trials(key + 1000, None, set(), -1)


# Whoever asks now for ended trials, now for all, sees each time what there is.
def test_ended_trials_and_all_of_them(storage: str, tmp_path: Path) -> None:
    name = str(tmp_path)
    writing = optuna.create_study(
        study_name=name, storage=open_storage(storage, tmp_path / "s.log")
    )
    looking = optuna.load_study(study_name=name, storage=open_storage(storage, tmp_path / "s.log"))

    def ended() -> list[int]:
        states = (TrialState.COMPLETE, TrialState.FAIL)
        return [trial.number for trial in looking.get_trials(states=states)]

    trials = [writing.ask() for _ in range(4)]
    assert ended() == []
    assert fields(looking.trials) == fields(writing.trials)
    writing.tell(trials[3], 1.0)
    assert ended() == [3]
    trials[1].set_user_attr("note", 1)
    assert fields(looking.trials) == fields(writing.trials)
    writing.tell(trials[0], state=TrialState.FAIL)
    trials.append(writing.ask())
    writing.tell(trials[1], state=TrialState.PRUNED)
    assert ended() == ended() == [0, 3]
    writing.tell(trials[4], 2.0)
    assert ended() == [0, 3, 4]
    assert fields(looking.trials) == fields(writing.trials)
    assert [trial.state for trial in looking.trials] == [
        *(TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING),
        *(TrialState.COMPLETE, TrialState.COMPLETE),
    ]
