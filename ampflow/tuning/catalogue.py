"""What is in studies: how far they are, their trials; the list of them; removing one."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ampflow.errors import StorageError
from ampflow.tuning.leases import Holder, Leases
from ampflow.tuning.results import CHECKPOINT, end_of
from ampflow.tuning.spec import PREFIX, StudySpec, claims_folder, journal_path, location_of
from ampflow.tuning.storage import explain_storage_errors, open_storage, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "HeldTrial",
    "StudySummary",
    "delete_study",
    "held_trials",
    "list_studies",
    "load_named",
    "refuse_if_held",
    "study_exists",
    "study_progress",
    "study_summary",
    "trial_table",
    "trials_of",
]


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


@dataclass(frozen=True)
class HeldTrial:
    """A trial that somebody is working on.

    Parameters
    ----------
    study, number
        Which trial.
    holder
        Who: worker, machine, process and batch job.
    """

    study: str
    number: int
    holder: Holder


def held_trials(cache: Path) -> list[HeldTrial]:
    """Return who works on which trial of which study in a cache folder, by study and number.

    Known from the leases alone, without opening a study. Of a worker that was killed on another
    machine nothing is known until its trial is taken over: it is among them.

    Raises
    ------
    StorageError
        If the folder cannot be read.
    """
    folders = sorted(claims_folder(cache, "").glob(f"{PREFIX}*"))
    held = [
        HeldTrial(folder.name, int(key), holder)
        for folder in folders
        for key, holder in Leases(folder, "").holders().items()
    ]
    return sorted(held, key=lambda trial: (trial.study, trial.number))


def study_summary(spec: StudySpec, study: optuna.Study | None = None) -> StudySummary:
    """Say how far a study is, which need not exist yet.

    Parameters
    ----------
    study
        The study, if it is open already: for whoever asks again and again.

    Raises
    ------
    StorageError
        If its storage cannot be read.
    """
    with explain_storage_errors(spec.location):
        found = study or _open(spec.name, spec.cache, spec.tuning.storage)
        if found is not None:
            return _summarise(found, spec.location)
    return StudySummary(spec.name, spec.location, spec.described, 0, 0, 0, 0, None, None, {})


def study_exists(spec: StudySpec) -> bool:
    """Tell whether a study was made; makes nothing.

    Raises
    ------
    StorageError
        If its storage cannot be read.
    """
    return _open(spec.name, spec.cache, spec.tuning.storage) is not None


def study_progress(spec: StudySpec) -> tuple[int, float]:
    """Return what changes whenever a trial of the study comes farther.

    The study hears of epochs only where a pruner asks for them: checkpoints count as well.

    Raises
    ------
    StorageError
        If its storage cannot be read.
    """
    with explain_storage_errors(spec.location):
        study = _open(spec.name, spec.cache, spec.tuning.storage)
        trials = study.get_trials(deepcopy=False) if study else []
    told = sum(1 + len(trial.intermediate_values) for trial in trials)
    written = 0.0
    for path in (spec.cache / "trials").glob(f"*/{CHECKPOINT}"):
        with suppress(OSError):  # its trial has just ended
            written = max(written, path.stat().st_mtime)
    return told, written


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
    end = end_of(trial)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        **{name: trial.params.get(name) for name in names},
        **{name: end.get(name) for name in _ATTRIBUTES},
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
    if not storage:
        journals = journal_path(cache, "").parent.glob(f"{PREFIX}*.log")
        names = sorted(path.stem for path in journals)
        return [found for name in names for found in _found(name, cache)]
    with explain_storage_errors(shown(storage)):
        opened = open_storage(storage, Path())
        names = [name for name in optuna.get_all_study_names(opened) if name.startswith(PREFIX)]
        return [_summarise(_load(name, opened), shown(storage)) for name in names]


def _found(name: str, cache: Path) -> list[StudySummary]:
    where = str(journal_path(cache, name))
    with explain_storage_errors(where):
        study = _open(name, cache, "")
        return [] if study is None else [_summarise(study, where)]


def trials_of(name: str, cache: Path, storage: str = "") -> pd.DataFrame:
    """Return the table of a study's trials, see `trial_table`, by the study's name.

    Raises
    ------
    StorageError
        If there is none of this name, or it cannot be read.
    """
    study = load_named(name, cache, storage)
    with explain_storage_errors(location_of(storage, journal_path(cache, name))):
        return trial_table(study)


def load_named(name: str, cache: Path, storage: str = "") -> optuna.Study:
    """Open a study, by its name, to look at.

    Raises
    ------
    StorageError
        If there is none of this name, or it cannot be read.
    """
    where = location_of(storage, journal_path(cache, name))
    with explain_storage_errors(where):
        study = _open(name, cache, storage)
    if study is None:
        raise StorageError(f"{where}: no study {name}", "ampflow studies list")
    return study


def refuse_if_held(name: str, cache: Path) -> None:
    """See that nobody works on a study.

    Raises
    ------
    StorageError
        If somebody does.
    """
    claims = claims_folder(cache, name)
    holders = {holder.worker for holder in Leases(claims, "").holders().values()}
    if holders:
        raise StorageError(
            f"study {name} is being worked on by {', '.join(sorted(holders))}",
            f"stop that first (or remove {claims}, if it was stopped on another machine)",
        )


def delete_study(name: str, cache: Path, storage: str = "") -> None:
    """Delete a study: its trials and claims. Trained networks stay, other studies may use them.

    Raises
    ------
    StorageError
        If there is none of this name, or it is being worked on.
    """
    refuse_if_held(name, cache)
    study = load_named(name, cache, storage)
    with explain_storage_errors(location_of(storage, journal_path(cache, name))):
        optuna.delete_study(study_name=name, storage=study._storage)
        if not storage:
            journal_path(cache, name).unlink()
        shutil.rmtree(claims_folder(cache, name), ignore_errors=True)


def _open(name: str, cache: Path, storage: str) -> optuna.Study | None:
    """Open a study to look at; None if there is none, and none is made."""
    journal = journal_path(cache, name)
    if not storage and not journal.is_file():
        return None
    try:
        return _load(name, open_storage(storage, journal))
    except KeyError:  # also a journal without its study: killed between the two
        return None


def _load(name: str, storage: BaseStorage) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler()  # not asked for anything
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler)
