"""Tuned neural-network potentials from DFT structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampflow.potential.calculator import AmpflowCalculator

__all__ = ["load"]


def load(folder: str | Path) -> AmpflowCalculator:
    """Load a potential as an ASE calculator.

    Parameters
    ----------
    folder
        The model's folder, as a run leaves it in `model` of its results.

    Raises
    ------
    StorageError
        If there is none, it is damaged, or was written by a newer ampflow.
    """
    from ampflow.potential.calculator import load  # not before it is needed: it imports much

    return load(Path(folder))
