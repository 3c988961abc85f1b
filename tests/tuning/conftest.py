"""A study that trains nothing: a fake trainer, quick and of known results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ampflow.experiment import Choices, Range, Training, Tuning
from ampflow.tuning.study import StudySpec

SPACE = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "num_layers": Range(low=2, high=6),
    "batch_size": Choices(choices=[8, 16, 32]),
}


@pytest.fixture
def make_spec(tmp_path: Path) -> Any:
    def make(cache: str = "cache", epochs: int = 5, seed: int = 1, **tuning: Any) -> StudySpec:
        options = {"trials": 6, "sampler": "random", "pruner": "none", "space": SPACE} | tuning
        spec = StudySpec(
            store=tmp_path / "store",
            split=tmp_path / "split.json",
            data_digest="data",
            training=Training(epochs=epochs),
            tuning=Tuning(**options),
            seed=seed,
            cache=tmp_path / cache,
        )
        # The real one would have every process of these tests import torch.
        spec.__dict__["trainer_version"] = 0
        return spec

    return make
