"""Options of [tuning]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from ampflow.experiment.section import Section, option
from ampflow.experiment.space import Choices, Distribution, Range, checked, flat_space

__all__ = ["Tuning"]


_SEARCHED = {
    "num_layers": Range(low=2, high=5),
    "num_nodes": Range(low=16, high=64, log=True),
    "dropout_rate": Choices(choices=[0.0, 0.05]),
    "lr": Range(low=1e-3, high=5e-2, log=True),
    "gamma": Range(low=0.5, high=1.0),
    "step_size": Range(low=10, high=50, log=True),
    "batch_size": Choices(choices=[8, 16, 32, 64]),
}


class Tuning(Section):
    """The search for the best hyperparameters (Optuna)."""

    trials: int = option(
        20, "Trials in the study, all runs together. Raise it and run again to add some.", ge=1
    )
    hours: float | None = option(
        None,
        "End one run after this long; trials that are not finished by then keep their "
        "checkpoints, and the next run continues them. Omit it for no limit.",
        "hours",
        gt=0,
    )
    gpu_hours: float | None = option(
        None,
        "End the study after its trainings have had a GPU this long, all runs and workers "
        "together; trainings on the CPU count nothing. Omit it for no limit.",
        "hours",
        gt=0,
    )
    sampler: Literal["tpe", "random", "cmaes", "gp", "qmc", "grid"] = option(
        "tpe", "How the next hyperparameters are chosen."
    )
    pruner: Literal["none", "median", "halving", "hyperband"] = option(
        "median",
        "How trials that fall behind on validation are stopped early: median rule, successive "
        "halving, Hyperband, or none.",
    )
    workers: int = option(
        0,
        "Workers, each training `stack` trials at a time; 0: one a core of this machine, or as "
        "many as the cluster's smallest number of jobs has.",
        ge=0,
    )
    stack: int = option(
        1,
        "Trials that a worker trains at once. On a GPU they step together; on the CPU they take "
        "turns on the worker's core, which is busy while one of them waits for the study's "
        "storage.",
        ge=1,
    )
    storage: str = option(
        "",
        "Where the study is kept: empty for a journal file in the cache folder, or the URL of a "
        "database (sqlite:///..., postgresql://user@host/name). A password belongs "
        "into the environment variable AMPFLOW_STORAGE_PASSWORD or a file, not here.",
    )
    space: dict[str, Distribution] = option(
        _SEARCHED,
        "Options of [training] to search, the others stay as they are there. Each is a range, "
        "{ low, high, log, step }, or { choices }. What it names wins over the value there. "
        "Options of [fingerprints] are searched as fingerprints.cutoff, .switch_width, .normalize, "
        ".harmonics, .square, .rs, .rs_setup, .orders (the highest), .sigmas.number, "
        ".sigmas.smallest and .sigmas.largest.",
    )

    @field_validator("storage")
    @classmethod
    def _no_password(cls, url: str) -> str:
        # Options are shown by the report, by Prefect and by process lists.
        if re.search(r"://[^/@]*:[^/@]+@", url):
            raise ValueError(
                "it holds a password: put that into the environment variable "
                "AMPFLOW_STORAGE_PASSWORD, or into ~/.config/ampflow/storage-password (mode 600)"
            )
        return url

    @field_validator("space", mode="before")
    @classmethod
    def _space_isflat_space(cls, space: Any) -> Any:
        # `fingerprints.cutoff = ...` in a file is a table within a table.
        return flat_space(space) if isinstance(space, Mapping) else space

    @field_validator("space")
    @classmethod
    def _space_is_of_options(cls, space: dict[str, Distribution]) -> dict[str, Distribution]:
        return {name: checked(name, distribution) for name, distribution in space.items()}

    @property
    def searches_fingerprints(self) -> bool:
        """Whether trials differ in their fingerprints."""
        return any(name.startswith("fingerprints.") for name in self.space)
