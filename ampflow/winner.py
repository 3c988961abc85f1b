"""The trained potential: restored or retrained, judged once on test, kept with its predictions."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampflow.errors import StorageError
from ampflow.experiment import Training
from ampflow.files import atomic_path, read_json, write_json
from ampflow.potential.derivatives import load_parts
from ampflow.potential.model import Potential
from ampflow.potential.training import train
from ampflow.progress import Progress, silent
from ampflow.splits import PARTS, Splits
from ampflow.store import FingerprintStore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Winner", "train_winner", "versions"]

_PACKAGES = ("ampflow", "ase", "numba", "numpy", "optuna", "prefect", "torch", "vesin")


@dataclass(frozen=True)
class Winner:
    """A finished winner in its folder: the model, what it predicts, how long it took."""

    folder: Path

    @property
    def model(self) -> Path:
        """The potential's folder."""
        return self.folder / "model"

    def is_whole(self) -> bool:
        """Tell whether it is there and can be read."""
        try:
            Potential.load(self.model)
            return len(self.predictions()) > 0 and self.seconds() >= 0
        except (StorageError, OSError, ValueError, KeyError):
            return False

    def predictions(self) -> pd.DataFrame:
        """One row a structure: `ampflow.reports.accuracy.COLUMNS`, maybe `DERIVATIVES`."""
        import pandas as pd

        from ampflow.reports.accuracy import DERIVATIVES

        # The formula of one Na and one N is no missing value.
        missing = {name: [""] for name in ("predicted_ev", *DERIVATIVES)}
        path = self.folder / "predictions.csv"
        return pd.read_csv(path, keep_default_na=False, na_values=missing)

    def seconds(self) -> float:
        """How long restoring or training, and predicting, took."""
        return float(read_json(self.folder / "winner.json")["seconds"])


def train_winner(
    store: FingerprintStore,
    splits: Splits,
    options: Training,
    seed: int,
    checkpoint: Path,
    folder: Path,
    progress: Progress = silent,
) -> Winner:
    """Train (or restore from its checkpoint) and keep the potential in `folder`.

    Parameters
    ----------
    checkpoint
        Of the training; a finished one is restored in no time, an interrupted one continues.
    folder
        For the winner; replaced as a whole.

    Raises
    ------
    Diverged
        If the training does.
    StorageError
        If the folder cannot be written.
    """
    start = time.monotonic()
    fitted, scored = load_parts(store, [splits.train, splits.validation], options)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trained = train(
        fitted,
        scored,
        options,
        seed,
        checkpoint=checkpoint,
        on_epoch=lambda epoch: progress(
            epoch.number, options.epochs, f"validation {epoch.validation_mae:.4g} eV"
        ),
    )
    potential = Potential(
        store.header["descriptor"],
        trained.fit,
        options,
        {
            "seed": seed,
            "store": store.digest,
            "structures": {part: len(getattr(splits, part)) for part in PARTS},
            "best_epoch": trained.best_epoch,
            "validation_mae_ev": trained.validation_mae,
            "versions": versions(),
        },
    )
    predictions = _predict(store, splits, potential, options)
    with atomic_path(folder, folder=True) as scratch:
        scratch.mkdir()
        potential.save(scratch / "model")
        predictions.to_csv(scratch / "predictions.csv", index=False)
        write_json(scratch / "winner.json", {"seconds": time.monotonic() - start})
    return Winner(folder)


def _predict(
    store: FingerprintStore, splits: Splits, potential: Potential, options: Training
) -> pd.DataFrame:
    import pandas as pd

    index, fit = store.index, potential.fit
    files = [file["path"] for file in store.header["files"]]
    changes = {"force_weight": 0.0, "stress_weight": 0.0, "device": "cpu"}
    energies = options.model_copy(update=changes)
    frames = []
    for part in PARTS:
        chosen = getattr(splits, part)
        [data] = load_parts(store, [chosen], energies)
        frames.append(
            pd.DataFrame(
                {
                    "part": part,
                    "structure": chosen,
                    "file": [files[number] for number in index.file_ids[chosen]],
                    "index": index.file_indices[chosen],
                    "formula": [index.formulas[number] for number in index.formula_ids[chosen]],
                    "atoms": index.atoms[chosen],
                    "energy_ev": data.energies,
                    "predicted_ev": fit.predict(data),
                    "baseline_ev": fit.references.of(data),
                    **_derivatives(store, chosen, potential, options),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _derivatives(
    store: FingerprintStore, chosen: NDArray[np.int64], potential: Potential, options: Training
) -> dict[str, list[float]]:
    """Return `ampflow.reports.accuracy.DERIVATIVES` of some structures, as far as trained on."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in chosen if options.differentiates else ():
        image = store.image(int(number))
        own = potential.evaluate(image.atoms)
        stress = own.stress(image.atoms.cell)
        for name, weight, predicted, given in (
            ("forces_{}_ev_per_angstrom", options.force_weight, own.forces, image.forces),
            ("stress_{}_ev_per_cubic_angstrom", options.stress_weight, stress, image.stress),
        ):
            if weight:
                wrong = size = np.nan  # of a test structure without them
                if predicted is not None and given is not None:
                    wrong, size = (float(np.abs(x).mean()) for x in (predicted - given, given))
                found[name.format("mae")].append(wrong)
                found[name.format("size")].append(size)
    return found


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
