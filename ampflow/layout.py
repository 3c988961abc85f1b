"""Where the files of an experiment are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ampflow.experiment import Experiment

__all__ = ["OUTPUTS", "Layout"]

OUTPUTS = ("report.html", "results.json", "trials.csv", "predictions.csv")
"""The files of a report."""


@dataclass(frozen=True)
class Layout:
    """The folders of an experiment: what a user opens in `out`, the rest in `cache`.

    Everything in the cache is named by its content, so experiments may share one.
    """

    out: Path
    cache: Path

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Return the folders that the options name."""
        out = Path(experiment.out).absolute()
        return cls(out, Path(experiment.cache).absolute() if experiment.cache else out / "cache")

    @property
    def stores(self) -> Path:
        """Fingerprint stores."""
        return self.cache / "stores"

    @property
    def splits(self) -> Path:
        """Splits."""
        return self.cache / "splits"

    @property
    def winners(self) -> Path:
        """Trained potentials with their predictions."""
        return self.cache / "winners"

    @property
    def jobs(self) -> Path:
        """Logs and certificates of the jobs that work now."""
        return self.cache / "jobs"

    @property
    def steps(self) -> Path:
        """What Prefect remembers of finished steps."""
        return self.cache / "steps"

    @property
    def model(self) -> Path:
        """The winner, as `ampflow.load` reads it."""
        return self.out / "model"

    @property
    def results(self) -> Path:
        """The report's figures, for programs."""
        return self.out / "results.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / "report.html"
