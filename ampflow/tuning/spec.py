"""What names a study, and where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ampflow.digests import digest
from ampflow.experiment import Experiment, Fingerprints, Spaced, Training, Tuning
from ampflow.layout import Layout
from ampflow.tuning.space import fill_fingerprints, lowest_fingerprints
from ampflow.tuning.storage import shown

__all__ = ["PREFIX", "StudySpec", "claims_folder", "journal_path", "location_of", "study_spec"]

PREFIX = "ampflow-"
"""With which the names of our studies begin, as others may share a database with us."""


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
    fingerprints
        Options that are not searched, if some are.
    """

    store: Path
    split: Path
    data_digest: str
    training: Training = field(repr=False)
    tuning: Tuning = field(repr=False)
    seed: int
    cache: Path
    fingerprints: Fingerprints = field(default=Fingerprints(), repr=False)

    @cached_property
    def name(self) -> str:
        """Name made of all that its trials depend on.

        Trials, hours, workers and the place of the storage are not among it: to raise the
        number of trials is to continue the same study.
        """
        return PREFIX + digest(self.data_digest, self.seed, self.trainer_version, self.described)

    @cached_property
    def trainer_version(self) -> int:
        """Version of the trainer, part of every trial's name."""
        from ampflow.potential.training import TRAINER_VERSION  # imports what is compiled

        return TRAINER_VERSION

    @property
    def described(self) -> dict[str, Any]:
        """Sampler, pruner, space and the options that are fixed: the search without its size."""
        fixed = self.training.decisive(exclude=self.tuning.space)
        search = self.tuning.model_dump(mode="json", include={"sampler", "pruner", "space"})
        if self.tuning.searches_fingerprints:
            search["fingerprints"] = self._fixed_fingerprints()
        return {"training": fixed} | search

    def _fixed_fingerprints(self) -> dict[str, Any]:
        # Densities are part of `data_digest` by their content.
        fixed = self.fingerprints.model_dump(mode="json", exclude={"densities"})
        searched = [name.split(".")[1:] for name in self.tuning.space if "." in name]
        if ends := {names[1] for names in searched if names[0] == "sigmas"}:
            given = self.fingerprints.sigmas
            spaced = given if isinstance(given, Spaced) else Spaced.like(given)
            fixed["sigmas"] = spaced.model_dump(mode="json", exclude=ends)
        whole = {names[0] for names in searched if len(names) == 1}
        return {name: value for name, value in fixed.items() if name not in whole}

    def fingerprints_of(self, params: Mapping[str, Any]) -> Fingerprints:
        """Return the fingerprints of a trial with these parameters."""
        return fill_fingerprints(self.fingerprints, params)

    def store_of(self, fingerprints: Fingerprints) -> Path:
        """Return where the structures with these fingerprints are, once they were computed.

        Raises
        ------
        StorageError
            If there is no store at `store`.
        """
        if not self.tuning.searches_fingerprints:
            return self.store
        from ampflow.descriptors import described_path  # imports what is compiled

        return described_path(self.store, fingerprints)

    @property
    def journal(self) -> Path:
        """The journal file, where `tuning.storage` names no database."""
        return journal_path(self.cache, self.name)

    @property
    def location(self) -> str:
        """Where the study is kept, as it may be shown to anybody."""
        return location_of(self.tuning.storage, self.journal)


def claims_folder(cache: Path, name: str) -> Path:
    """Return the folder of the leases on a study's trials."""
    return cache / "claims" / name


def journal_path(cache: Path, name: str) -> Path:
    """Return the journal file of a study that no database keeps."""
    return cache / "studies" / f"{name}.log"


def location_of(storage: str, journal: Path) -> str:
    """Say where a study is kept: the URL without its password, or the journal."""
    return shown(storage) if storage else str(journal)


def study_spec(experiment: Experiment, store: Path, split: Path) -> StudySpec:
    """Describe the experiment's study on its fingerprints and split, named by their content."""
    return StudySpec(
        store=store,
        split=split,
        data_digest=digest(_data_name(experiment, store), split.stem),
        training=experiment.training,
        tuning=experiment.tuning,
        seed=experiment.seed,
        cache=Layout.of(experiment).cache,
        fingerprints=experiment.fingerprints,
    )


def _data_name(experiment: Experiment, store: Path) -> str:
    """Name what trials are trained on: a store, or all that fingerprints have in common.

    That is their first corner: what is searched is there as the space has it, whatever
    [fingerprints] says, and all else (densities by their content) decides its name as it stands.
    """
    if not experiment.tuning.searches_fingerprints:
        return store.stem
    from ampflow.fingerprinting import make_descriptor  # imports what is compiled

    corner = lowest_fingerprints(experiment.fingerprints, experiment.tuning.space)
    return make_descriptor(corner).digest
