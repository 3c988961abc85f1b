"""Studies: opening one, and all that can be asked of one."""

from __future__ import annotations

import copy

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from ampflow.errors import StorageError
from ampflow.experiment import Fingerprints, Training
from ampflow.tuning.catalogue import (
    HeldTrial,
    StudySummary,
    delete_study,
    held_trials,
    list_studies,
    study_exists,
    study_progress,
    study_summary,
    trial_table,
    trials_of,
)
from ampflow.tuning.copying import copy_study
from ampflow.tuning.sampling import budget, make_pruner, make_sampler
from ampflow.tuning.space import fill, highest
from ampflow.tuning.spec import StudySpec, claims_folder
from ampflow.tuning.storage import explain_storage_errors, open_storage

__all__ = [
    "HeldTrial",
    "StudySpec",
    "StudySummary",
    "best_fingerprints",
    "best_training",
    "copy_study",
    "delete_study",
    "held_trials",
    "list_studies",
    "open_study",
    "prepare_study",
    "reopen_study",
    "require_study",
    "study_progress",
    "study_summary",
    "trial_table",
    "trials_of",
]


def open_study(spec: StudySpec, number: int = 0) -> optuna.Study:
    """Open the study, creating it if there is none.

    Parameters
    ----------
    number
        The trial that the study's sampler is made for.

    Raises
    ------
    StorageError
        If its storage cannot be used.
    OptionError
        If its sampler cannot search its space.
    """
    with explain_storage_errors(spec.location):
        storage = open_storage(spec.tuning.storage, spec.journal)
        return _load(spec, storage, number)


def reopen_study(spec: StudySpec, study: optuna.Study, number: int) -> optuna.Study:
    """Return the study as trial `number` is to see it: its own sampler, nothing remembered."""
    own = copy.copy(study)  # opening it again would ask the database again
    own.sampler = make_sampler(spec.tuning, spec.seed, number)
    return _with_pruner(own, spec)


def _load(spec: StudySpec, storage: BaseStorage, number: int) -> optuna.Study:
    sampler = make_sampler(spec.tuning, spec.seed, number)
    try:  # first, as the attempt to create one that exists would be written to the journal
        study = optuna.load_study(study_name=spec.name, storage=storage, sampler=sampler)
    except KeyError:
        study = optuna.create_study(
            study_name=spec.name, storage=storage, sampler=sampler,
            direction="minimize", load_if_exists=True,
        )  # fmt: skip
    return _with_pruner(study, spec)


def _with_pruner(study: optuna.Study, spec: StudySpec) -> optuna.Study:
    epochs = int(highest("epochs", spec.tuning.space, spec.training))
    study.pruner = make_pruner(spec.tuning, epochs)
    # Hyperband makes its brackets when it is first asked, and until then lets a sampler see the
    # trials of the first bracket only. Asked now, it is the same in every process.
    if isinstance(study.pruner, optuna.pruners.HyperbandPruner):
        study.pruner.prune(study, create_trial(state=TrialState.RUNNING))
    return study


def prepare_study(spec: StudySpec) -> optuna.Study:
    """Open the study, and have it say what it searches.

    Trials are made one by one when a worker has time for one, and never more than the budget.

    Raises
    ------
    StorageError, OptionError
        As `open_study`; also where the claims folder cannot be written.
    """
    budget(spec.tuning)
    study = open_study(spec)
    with explain_storage_errors(spec.location):
        if "described" not in study.user_attrs:
            study.set_user_attr("described", spec.described | {"seed": spec.seed})
    with explain_storage_errors(str(spec.cache)):
        claims_folder(spec.cache, spec.name).mkdir(parents=True, exist_ok=True)
    return study


def require_study(spec: StudySpec) -> None:
    """See that a study that was made elsewhere is here too.

    A worker that does not see the shared folder would find no study, make one of its own, and
    train for nobody.

    Raises
    ------
    StorageError
        If it is not here, or cannot be looked for.
    """
    with explain_storage_errors(spec.location):
        if not study_exists(spec):
            raise StorageError(
                f"{spec.location}: the study is not there, seen from here",
                "do all machines see this folder, or reach this database? "
                "`ampflow clusters check` tries it",
                fleeting=True,  # a file system may show it later; another machine may see it
            )


def best_training(spec: StudySpec) -> Training | None:
    """Return the options of the best trial; None if no trial is complete."""
    summary = study_summary(spec)
    return None if summary.best_number is None else fill(spec.training, summary.best_params)


def best_fingerprints(spec: StudySpec) -> Fingerprints | None:
    """Return the fingerprints of the best trial; None if no trial is complete."""
    summary = study_summary(spec)
    return None if summary.best_number is None else spec.fingerprints_of(summary.best_params)
