"""AMPTorch as it was published, on versions of its libraries that are younger than it is.

Patches four places when AMPTorch is imported, and none of its files.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ampflow.errors import OptionError

__all__ = ["load_amptorch", "require_amptorch", "warn_of_defects"]

_log = logging.getLogger(__name__)
_DEFECTS = (
    "AMPTorch's own fingerprints may miss neighbours of atoms within 1e-7 of a cell face, some of "
    "their derivatives are wrong, elements without a density are taken for others, and its cache "
    "does not notice other densities; it rounds the energies that scores are made of to float32. "
    "Trainings with ampflow's fingerprints meet the last alone (docs/amptorch.md)"
)

_NEEDED = ("amptorch", "skorch", "torch_geometric", "h5py", "sklearn", "tqdm")


def require_amptorch() -> None:
    """Refuse to go on without AMPTorch and its libraries; imports none of them.

    Raises
    ------
    OptionError
        If one is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(
            f"this needs AMPTorch, but there is no {', '.join(missing)} in this environment",
            'pip install "ampflow[amptorch]" (needs a C++ compiler), as docs/amptorch.md says',
        )


@cache
def warn_of_defects() -> None:
    """Say once a process what is known to be wrong with AMPTorch."""
    _log.warning(_DEFECTS)


@cache
def load_amptorch() -> ModuleType:
    """Import AMPTorch and return its module `trainer`.

    Raises
    ------
    OptionError
        If it is not installed.
    """
    require_amptorch()
    import skorch.dataset

    # skorch 0.11 gave CVSplit another name.
    if not hasattr(skorch.dataset, "CVSplit"):
        skorch.dataset.CVSplit = skorch.dataset.ValidSplit
    # torch_scatter has to be compiled; of it AMPTorch calls one function, which PyG has as well.
    if importlib.util.find_spec("torch_scatter") is None:
        from torch_geometric.utils import scatter

        stand_in: Any = ModuleType("torch_scatter")
        stand_in.scatter = scatter
        sys.modules["torch_scatter"] = stand_in
    trainer = importlib.import_module("amptorch.trainer")
    metrics: Any = importlib.import_module("amptorch.metrics")
    metrics.MemEffEpochScoring.on_batch_end = _on_batch_end(metrics.to_cpu)
    metrics.target_extractor = _target_extractor
    return trainer


def _on_batch_end(to_cpu: Any) -> Any:
    """Return the callback for skorch since 0.11, which hands over `batch` instead of X and y."""

    def on_batch_end(
        self: Any, net: Any, batch: Any, y_pred: Any, training: bool, **_: Any
    ) -> None:
        if self.use_caching and training == self.on_train:
            self.y_trues_.append(to_cpu(batch[1]))
            self.y_preds_.append(to_cpu(y_pred))

    return on_batch_end


def _target_extractor(targets: Any) -> Any:
    """Return energies and forces (or None) of each batch: numpy 1.24 has no ragged arrays."""
    extracted = np.empty((len(targets), 2), dtype=object)
    for row, batch in zip(extracted, targets, strict=True):
        for column, values in enumerate(batch):
            row[column] = values.detach().cpu().numpy()
    return extracted
