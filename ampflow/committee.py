"""The ensemble of a study's best trials, and how it does on the test part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict

from ampflow.digests import digest
from ampflow.errors import DataError
from ampflow.experiment import Training
from ampflow.potential.derivatives import load_parts
from ampflow.potential.ensemble import Ensemble, calibrate
from ampflow.potential.model import Potential
from ampflow.potential.training import train
from ampflow.splits import Splits
from ampflow.store import FingerprintStore
from ampflow.stored import Stored
from ampflow.tuning.described import described_store
from ampflow.tuning.results import CHECKPOINT, trial_folder
from ampflow.tuning.space import fill
from ampflow.tuning.study import StudySpec, open_study

__all__ = ["Committee", "TestFigures", "make_committee"]


class TestFigures(BaseModel):
    """An ensemble on the test part, beside its best member; energies in eV per structure."""

    __test__ = False  # for pytest: not a test
    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: int
    members: int
    level: float
    coverage: float
    half_width_ev: float
    mae_ev: float
    best_member_mae_ev: float


@dataclass(frozen=True)
class Committee:
    """An ensemble and its figures."""

    ensemble: Ensemble
    figures: TestFigures


def make_committee(spec: StudySpec, members: int, level: float = 0.9) -> Committee:
    """Join the potentials of a study's best trials, calibrated on validation, judged on test.

    Members share one descriptor: where fingerprints are searched, they are the best trials among
    those with the fingerprints of the best.

    Checkpoints of finished trials are taken as they are; where one was deleted its training is
    done again.

    Raises
    ------
    DataError
        If fewer trials are complete than asked for, or validation is too small for the level.
    """
    splits = Splits.read(spec.split)
    trials = open_study(spec).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(trials, key=lambda trial: (trial.value, trial.number))
    described = [spec.fingerprints_of(trial.params) for trial in ranked]
    alike = [trial for trial, one in zip(ranked, described, strict=True) if one == described[0]]
    options = _distinct([fill(spec.training, trial.params) for trial in alike])
    if members < 2 or len(options) < members:
        shared = " with the fingerprints of the best" if len(alike) < len(ranked) else ""
        raise DataError(
            f"an ensemble of {members} from {len(options)} different complete trials{shared}",
            "at least 2, and no more than there are: raise tuning.trials for more"
            + (", or search with these fingerprints alone" if shared else ""),
        )
    store = described_store(spec, described[0])
    potentials = []
    for chosen in options[:members]:
        checkpoint = trial_folder(spec, chosen, described[0]) / CHECKPOINT
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fitted, scored = load_parts(store, [splits.train, splits.validation], chosen)
        trained = train(fitted, scored, chosen, spec.seed, checkpoint=checkpoint)
        provenance = {"seed": spec.seed, "store": store.digest, "study": spec.name}
        potentials.append(Potential(store.header["descriptor"], trained.fit, chosen, provenance))
    ensemble = calibrate(Ensemble(potentials, level), Stored(store, splits.validation))
    return Committee(ensemble, _judge(ensemble, store, splits))


def _distinct(options: list[Training]) -> list[Training]:
    """Leave out trials that one training stands for."""
    return list({digest(chosen.decisive()): chosen for chosen in options}.values())


def _judge(ensemble: Ensemble, store: FingerprintStore, splits: Splits) -> TestFigures:
    test = Stored(store, splits.test)
    if not len(test):
        raise DataError("no structures in the test part", "give split.test a share")
    mean, half = ensemble.predict(test)
    wrong = np.abs(mean - test.energies)
    best = np.abs(ensemble.members[0].fit.predict(test) - test.energies)
    return TestFigures(
        structures=len(test),
        members=len(ensemble.members),
        level=ensemble.level,
        coverage=float((wrong <= half).mean()),
        half_width_ev=float(half.mean()),
        mae_ev=float(wrong.mean()),
        best_member_mae_ev=float(best.mean()),
    )
