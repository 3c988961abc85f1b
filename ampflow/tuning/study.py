"""Studies: what names one, how it is opened, and what is in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.experiment import Training, Tuning
from ampflow.tuning.leases import Leases
from ampflow.tuning.sampling import budget, make_pruner, make_sampler
from ampflow.tuning.space import fill, highest
from ampflow.tuning.storage import explain_storage_errors, open_storage, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "StudySpec",
    "StudySummary",
    "best_training",
    "claims_folder",
    "delete_study",
    "list_studies",
    "open_study",
    "prepare_study",
    "study_summary",
    "trial_table",
    "trials_of",
]

_PREFIX = "ampflow-"


@dataclass(frozen=True)
class StudySpec:
    """A study: what is searched, on which data, and where it is kept.

    Parameters
    ----------
    store, split
        The fingerprint store and the split of its structures.
    data_digest
        Of the content of both.
    training
        Options of a trial that are not searched.
    tuning
        The search.
    seed
        Of the samplers and of each training.
    cache
        Folder for the study's journal, claims and trained networks; all workers share it.
    """

    store: Path
    split: Path
    data_digest: str
    training: Training = field(repr=False)
    tuning: Tuning = field(repr=False)  # its storage may hold a password
    seed: int
    cache: Path

    @cached_property
    def name(self) -> str:
        """Name made of all that its trials depend on.

        Trials, hours, workers and the place of the storage are not among it: to raise the
        number of trials is to continue the same study.
        """
        return _PREFIX + digest(self.data_digest, self.seed, self.trainer_version, self.described)

    @cached_property
    def trainer_version(self) -> int:
        """Version of the trainer, part of every trial's name."""
        from ampflow.potential.training import TRAINER_VERSION  # imports torch: 2 s

        return TRAINER_VERSION

    @property
    def described(self) -> dict[str, Any]:
        """Sampler, pruner, space and the options that are fixed: the search without its size."""
        fixed = self.training.model_dump(mode="json", exclude=set(self.tuning.space))
        search = self.tuning.model_dump(mode="json", include={"sampler", "pruner", "space"})
        return {"training": fixed} | search

    @property
    def journal(self) -> Path:
        """The journal file, where `tuning.storage` names no database."""
        return _journal(self.cache, self.name)

    @property
    def location(self) -> str:
        """Where the study is kept, as it may be shown to anybody."""
        return _location(self.tuning.storage, self.journal)


@dataclass(frozen=True)
class StudySummary:
    """How far a study is.

    Parameters
    ----------
    name, location
        The study, and where it is kept.
    described
        Sampler, pruner, space and fixed options.
    complete, pruned, failed
        Trials that ended so.
    running
        Trials begun and not ended, also those whose worker was killed.
    best_number, best_value, best_params
        The trial with the least validation MAE (eV per structure), if any is complete.
    """

    name: str
    location: str
    described: dict[str, Any]
    complete: int
    pruned: int
    failed: int
    running: int
    best_number: int | None
    best_value: float | None
    best_params: dict[str, Any]

    @property
    def finished(self) -> int:
        """Trials that ended."""
        return self.complete + self.pruned + self.failed


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
        return _load(spec, storage, number, create=True)


def reopen_study(spec: StudySpec, study: optuna.Study, number: int) -> optuna.Study:
    """Open the study as trial `number` is to see it: its own sampler, and nothing remembered."""
    return _load(spec, study._storage, number, create=False)


def _load(spec: StudySpec, storage: BaseStorage, number: int, create: bool) -> optuna.Study:
    pruner = make_pruner(spec.tuning, int(highest("epochs", spec.tuning.space, spec.training)))
    sampler = make_sampler(spec.tuning, spec.seed, number)
    try:  # first, as the attempt to create one that exists would be written to the journal
        study = optuna.load_study(
            study_name=spec.name, storage=storage, sampler=sampler, pruner=pruner
        )
    except KeyError:
        if not create:
            raise
        study = optuna.create_study(
            study_name=spec.name, storage=storage, sampler=sampler, pruner=pruner,
            direction="minimize", load_if_exists=True,
        )  # fmt: skip
    # Hyperband makes its brackets when it is first asked, and until then lets a sampler see the
    # trials of the first bracket only. Asked now, it is the same in every process.
    pruner.prune(study, create_trial(state=TrialState.RUNNING))
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


def best_training(spec: StudySpec) -> Training | None:
    """Return the options of the best trial; None if no trial is complete."""
    summary = study_summary(spec)
    return None if summary.best_number is None else fill(spec.training, summary.best_params)


def study_summary(spec: StudySpec) -> StudySummary:
    """Say how far the study is, which need not exist yet.

    Raises
    ------
    StorageError
        If its storage cannot be read.
    """
    with explain_storage_errors(spec.location):
        found = None
        if spec.tuning.storage or spec.journal.is_file():
            storage = open_storage(spec.tuning.storage, spec.journal)
            found = _summary_of(spec.name, storage, spec.location)
    none = StudySummary(spec.name, spec.location, spec.described, 0, 0, 0, 0, None, None, {})
    return found or none


def _summarise(study: optuna.Study, location: str) -> StudySummary:
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    best = study.best_trial if counts[TrialState.COMPLETE] else None
    return StudySummary(
        name=study.study_name,
        location=location,
        described=study.user_attrs.get("described", {}),
        complete=counts[TrialState.COMPLETE],
        pruned=counts[TrialState.PRUNED],
        failed=counts[TrialState.FAIL],
        running=counts[TrialState.RUNNING],
        best_number=best.number if best else None,
        best_value=best.value if best else None,
        best_params=dict(best.params) if best else {},
    )


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Return the trials that were begun, one a row, by number.

    Columns: number, state, value (validation MAE, eV per structure), one for each searched
    option, epochs, best_epoch, seconds (of training), worker, started, finished, reason (why a
    trial failed), reused_from (the trial whose training this one shares).
    """
    import pandas as pd

    begun = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
    names = sorted({name for trial in begun for name in trial.params})
    rows = [_row(trial, names) for trial in begun]
    return pd.DataFrame(rows, columns=["number", "state", "value", *names, *_ATTRIBUTES])


_ATTRIBUTES = (
    "epochs", "best_epoch", "seconds", "worker", "started", "finished", "reason", "reused_from",
)  # fmt: skip


def _row(trial: FrozenTrial, names: list[str]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **{name: trial.params.get(name) for name in names},
        **{name: trial.user_attrs.get(name) for name in _ATTRIBUTES},
        "started": trial.datetime_start,
        "finished": trial.datetime_complete,
    }


def list_studies(cache: Path, storage: str = "") -> list[StudySummary]:
    """Return the studies in a cache folder, or in the database at URL `storage`.

    Raises
    ------
    StorageError
        If one cannot be read.
    """
    if storage:
        with explain_storage_errors(shown(storage)):
            opened = open_storage(storage, Path())
            names = [n for n in optuna.get_all_study_names(opened) if n.startswith(_PREFIX)]
            found = [_summary_of(name, opened, shown(storage)) for name in names]
    else:
        paths = sorted(_journal(cache, "").parent.glob(f"{_PREFIX}*.log"))
        found = [_summary_of(path.stem, open_storage("", path), str(path)) for path in paths]
    return [summary for summary in found if summary is not None]


def _summary_of(name: str, storage: BaseStorage, location: str) -> StudySummary | None:
    sampler = optuna.samplers.RandomSampler()
    try:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    except KeyError:  # a journal without its study: killed between the two
        return None
    return _summarise(study, location)


def trials_of(name: str, cache: Path, storage: str = "") -> pd.DataFrame:
    """Return the table of a study's trials, see `trial_table`, by the study's name.

    Raises
    ------
    StorageError
        If there is none of this name, or it cannot be read.
    """
    journal = _journal(cache, name)
    where = _location(storage, journal)
    with explain_storage_errors(where):
        try:
            study = optuna.load_study(
                study_name=name,
                storage=open_storage(storage, journal),
                sampler=optuna.samplers.RandomSampler(),
            )
        except KeyError:
            raise StorageError(f"{where}: no study {name}", "ampflow studies list") from None
        return trial_table(study)


def delete_study(name: str, cache: Path, storage: str = "") -> None:
    """Delete a study: its trials and claims. Trained networks stay, other studies may use them.

    Raises
    ------
    StorageError
        If there is none of this name, or it is being worked on.
    """
    journal = _journal(cache, name)
    where = _location(storage, journal)
    claims = claims_folder(cache, name)
    holders = {holder.worker for holder in Leases(claims, "").holders().values()}
    if holders:
        raise StorageError(
            f"study {name} is being worked on by {', '.join(sorted(holders))}",
            f"stop that first (or remove {claims}, if it was stopped on another machine)",
        )
    if not storage and not journal.is_file():
        raise StorageError(f"{where}: no such study", "ampflow studies list")
    with explain_storage_errors(where):
        try:
            optuna.delete_study(study_name=name, storage=open_storage(storage, journal))
        except KeyError:
            raise StorageError(f"{where}: no study {name}", "ampflow studies list") from None
        if not storage:
            journal.unlink()
        shutil.rmtree(claims, ignore_errors=True)


def claims_folder(cache: Path, name: str) -> Path:
    """Return the folder of the leases on a study's trials."""
    return cache / "claims" / name


def _journal(cache: Path, name: str) -> Path:
    return cache / "studies" / f"{name}.log"


def _location(storage: str, journal: Path) -> str:
    return shown(storage) if storage else str(journal)
