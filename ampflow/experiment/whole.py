"""The whole experiment, and what its sections demand of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from ampflow.experiment.backends import refuse_for_amptorch
from ampflow.experiment.data import Data, Split
from ampflow.experiment.fingerprints import Fingerprints, Spaced
from ampflow.experiment.section import Section, option
from ampflow.experiment.space import Distribution, Range
from ampflow.experiment.training import Training
from ampflow.experiment.tuning import Tuning

__all__ = ["Experiment"]


class Experiment(Section):
    """A whole experiment: data, fingerprints, split, training, tuning."""

    seed: int = option(0, "Seed of the split, the sampler and every training.", ge=0)
    out: str = option("ampflow-results", "Folder for the report, the model and the tables.")
    cache: str = option(
        "", "Folder for fingerprints, studies and checkpoints; empty: `cache` inside `out`."
    )
    cluster: str = option(
        "",
        "Whose jobs do the work: a profile of `ampflow clusters`, or a file of one (.toml). "
        "Empty: this machine does it.",
    )
    data: Data = Data()
    fingerprints: Fingerprints = Fingerprints()
    split: Split = Split()
    training: Training = Training()
    tuning: Tuning = Tuning()

    @model_validator(mode="after")
    def _fingerprints_fit(self) -> Self:
        """Refuse a space in which some trials would have impossible fingerprints."""
        space, given = self.tuning.space, self.fingerprints
        sigmas = given.sigmas if isinstance(given.sigmas, Spaced) else Spaced.like(given.sigmas)
        number = _ends("fingerprints.sigmas.number", space, sigmas.number)[1]
        smallest = _ends("fingerprints.sigmas.smallest", space, sigmas.smallest)[1]
        largest = _ends("fingerprints.sigmas.largest", space, sigmas.largest)[0]
        searched = any(name.startswith("fingerprints.sigmas.") for name in space)
        if searched and number > 1 and not smallest < largest:
            raise ValueError(
                f"tuning.space: fingerprints.sigmas.smallest is up to {smallest:g} Å, but "
                f"fingerprints.sigmas.largest may be {largest:g} Å"
            )
        width = _ends("fingerprints.switch_width", space, given.switch_width)[1]
        cutoff = _ends("fingerprints.cutoff", space, given.cutoff)[0]
        if width > cutoff:
            raise ValueError(
                f"tuning.space: fingerprints.switch_width is up to {width:g} Å, but "
                f"fingerprints.cutoff may be {cutoff:g} Å"
            )
        return self

    @model_validator(mode="after")
    def _backend_has_all(self) -> Self:
        """Refuse a space in which some trials would ask AMPTorch for what it has not."""
        space = self.tuning.space
        possible = {
            name: _possible(space[name]) if name in space else [value]
            for name, value in self.training
        }
        if "amptorch" in possible["backend"]:
            refuse_for_amptorch(possible)
        return self


def _possible(item: Distribution) -> list[Any]:
    return [item.low, item.high] if isinstance(item, Range) else list(item.choices)


def _ends(name: str, space: Mapping[str, Distribution], value: float) -> tuple[float, float]:
    """Return the least and the greatest value of an option in any trial."""
    item = space.get(name)
    if item is None:
        return value, value
    values = [float(value) for value in _possible(item)]
    return min(values), max(values)
