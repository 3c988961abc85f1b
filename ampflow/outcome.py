"""From finished steps to what a user opens: the report, its tables, the model.

What draws the report is imported where it is drawn: a report that is there needs none of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from optuna.trial import FrozenTrial

from ampflow.digests import digest
from ampflow.errors import StorageError
from ampflow.experiment import Experiment
from ampflow.files import atomic_path, read_json
from ampflow.fingerprints import GMP
from ampflow.fingerprints.reach import reach_note
from ampflow.layout import OUTPUTS, Layout
from ampflow.potential.model import Potential
from ampflow.splits import split_seconds
from ampflow.store import FingerprintStore
from ampflow.winner import Winner, versions

__all__ = ["outcome_digest", "outcome_is_whole", "tuning_seconds", "write_outcome"]


def outcome_digest(experiment: Experiment, winner: Winner, trials: Sequence[FrozenTrial]) -> str:
    """Name what the report would show."""
    rows = [[trial.number, trial.state.name, trial.value] for trial in trials]
    return digest(
        "outcome", experiment.model_dump(mode="json"), winner.folder.name, rows, versions()
    )


def outcome_is_whole(layout: Layout, name: str) -> bool:
    """Tell whether the files in `out` are there and show what `name` stands for."""
    try:
        Potential.load(layout.model)
        return read_json(layout.results)["digests"]["outcome"] == name and all(
            (layout.out / file).is_file() for file in OUTPUTS
        )
    except (StorageError, KeyError, TypeError):
        return False


def write_outcome(
    experiment: Experiment,
    store: FingerprintStore,
    split: Path,
    winner: Winner,
    study: str,
    trials: Sequence[FrozenTrial],
) -> Path:
    """Write the report, its tables and the model to the experiment's `out`.

    Parameters
    ----------
    study
        Its name; empty if nothing was searched.
    trials
        Of the study.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    from ampflow.reports.page import write_report
    from ampflow.reports.results import Skipped, make_results

    layout = Layout.of(experiment)
    with atomic_path(layout.model, folder=True) as part:
        shutil.copytree(winner.model, part)
    predictions = winner.predictions()
    results = make_results(
        predictions,
        trials,
        study=study,
        experiment=experiment,
        features=len(store.header["features"]),
        model=str(layout.model),
        skipped=[
            Skipped(file=str(item.file), index=item.index, reason=item.reason)
            for item in store.rejected
        ],
        notes=_notes(store),
        seconds={
            "fingerprints": _fingerprint_seconds(trials) or store.header["seconds"],
            "split": split_seconds(split),
            "tuning": tuning_seconds(trials),
            "winner": winner.seconds(),
        },
        versions=versions(),
        digests={
            "store": store.digest,
            "descriptor": store.header["descriptor_digest"],
            "split": split.stem,
            "winner": winner.folder.name,
            "outcome": outcome_digest(experiment, winner, trials),
        },
    )
    return write_report(results, predictions, trials, layout.out)


def _notes(store: FingerprintStore) -> list[str]:
    descriptor = GMP.from_config(store.header["descriptor"])
    note = reach_note(descriptor, store.header["elements"])
    return [note] if note else []


def _fingerprint_seconds(trials: Sequence[FrozenTrial]) -> float:
    """Return how long the descriptors of a search took, each once."""
    from ampflow.reports.fingerprint_costs import descriptors_of

    return sum(one.seconds for one in descriptors_of(trials))


def tuning_seconds(trials: Sequence[FrozenTrial]) -> float:
    """Return how long at least one trial was being trained."""
    spans = sorted(
        (trial.datetime_start, trial.datetime_complete)
        for trial in trials
        if trial.datetime_start is not None and trial.datetime_complete is not None
    )
    total, until = timedelta(0), datetime.min
    for start, stop in spans:
        total += max(stop, until) - max(start, until)
        until = max(stop, until)
    return total.total_seconds()
