"""Moving a study from one storage to another."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from ampflow.errors import StorageError
from ampflow.tuning.catalogue import load_named, refuse_if_held
from ampflow.tuning.spec import journal_path, location_of
from ampflow.tuning.storage import explain_storage_errors, open_storage

__all__ = ["copy_study"]

_SAME = (
    *("number", "state", "values", "params", "distributions"),
    *("intermediate_values", "user_attrs", "system_attrs"),
)
_MYSQLS_SECOND = 1.0  # MySQL's times are whole seconds


def copy_study(name: str, cache: Path, storage: str = "", *, to: str) -> int:
    """Copy a study, with all there is of its trials, to another storage; return their number.

    Trials that were interrupted stay so, to be continued from their checkpoints. What was
    written is read again and compared; if anything differs, or fails, the copy is removed. The
    original stays.

    Parameters
    ----------
    storage, to
        URL of a database, or empty for the journal in the cache folder.

    Raises
    ------
    StorageError
        If there is no such study, it is being worked on, there is one of this name already, or
        a storage fails.
    """
    refuse_if_held(name, cache)
    journal = journal_path(cache, name)
    source = load_named(name, cache, storage)
    where = location_of(to, journal)
    if not to and journal.is_file():
        raise _exists(name, where)
    with explain_storage_errors(where):
        target = open_storage(to, journal)
        try:
            optuna.copy_study(from_study_name=name, from_storage=source._storage, to_storage=target)
        except optuna.exceptions.DuplicatedStudyError:
            raise _exists(name, where) from None
        except BaseException:
            _remove(name, target, None if to else journal)
            raise
        changed = _difference(load_named(name, cache, storage), _load(name, target))
        if changed:
            _remove(name, target, None if to else journal)
            raise StorageError(
                f"{where}: {changed} differs from the original; the copy was removed",
                "is somebody working on the study? Stop that first",
            )
    return len(source.get_trials(deepcopy=False))


def _exists(name: str, where: str) -> StorageError:
    return StorageError(
        f"{where}: there is a study {name} already, which is not overwritten",
        "if it is an unfinished copy: ampflow studies delete",
    )


def _remove(name: str, target: BaseStorage, journal: Path | None) -> None:
    with suppress(KeyError):
        optuna.delete_study(study_name=name, storage=target)
    if journal is not None:
        journal.unlink(missing_ok=True)


def _load(name: str, storage: BaseStorage) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler()  # not asked for anything
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler)


def _difference(one: optuna.Study, other: optuna.Study) -> str:
    """Name the first thing that is not the same in both; empty if all is."""
    if (one.directions, one.user_attrs) != (other.directions, other.user_attrs):
        return "the study"
    trials, copies = (study.get_trials(deepcopy=False) for study in (one, other))
    if len(trials) != len(copies):
        return f"the number of trials ({len(copies)} for {len(trials)})"
    for trial, copy in zip(trials, copies, strict=True):
        different = [name for name in _SAME if getattr(trial, name) != getattr(copy, name)]
        different += [] if _same_times(trial, copy) else ["times"]
        if different:
            return f"trial {trial.number} ({', '.join(different)})"
    return ""


def _same_times(one: FrozenTrial, other: FrozenTrial) -> bool:
    pairs = (
        (one.datetime_start, other.datetime_start),
        (one.datetime_complete, other.datetime_complete),
    )
    return all(_same_time(*pair) for pair in pairs)


def _same_time(one: datetime | None, other: datetime | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs((one - other).total_seconds()) <= _MYSQLS_SECOND
