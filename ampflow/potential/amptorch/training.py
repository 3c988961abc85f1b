"""A training by AMPTorch, as ours is called: epochs as they are done, the best one's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ampflow.children import release_child
from ampflow.dataset import Dataset, Structures
from ampflow.digests import digest
from ampflow.errors import AmpflowError, DataError
from ampflow.experiment import Training
from ampflow.files import write_json
from ampflow.potential.amptorch.compat import require_amptorch, warn_of_defects
from ampflow.potential.fit import Fit
from ampflow.potential.network import Network
from ampflow.potential.references import make_references
from ampflow.potential.scaling import fit_scaler
from ampflow.potential.schedules import is_over
from ampflow.potential.state import Checkpoint, Epoch, State
from ampflow.potential.training import TRAINER_VERSION, Diverged, Trained

__all__ = ["BEST", "DATA", "JOB", "STATE", "train"]

DATA, JOB, STATE, BEST = "data.safetensors", "job.json", "state.safetensors", "best.safetensors"
"""Files between this process and its child, `ampflow.potential.amptorch.child`."""


def train(
    train: Structures,
    validation: Structures,
    options: Training,
    seed: int,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Have AMPTorch train a network; the same contract as `ampflow.potential.training.train`.

    It learns what the reference energies leave, from our fingerprints and in our scaler's units,
    so that its weights are those of our network.

    Raises
    ------
    OptionError
        If AMPTorch is not installed, or reference energies are missing.
    DataError
        If a part has no structures.
    Diverged
        If an error is not a number.
    AmpflowError
        If AMPTorch fails.
    """
    if not len(train) or not len(validation):
        raise DataError("training needs structures in the train and the validation part")
    references = make_references(train, options)
    residuals = train.energies - references.of(train)
    scaler = fit_scaler(train, residuals)
    whole = _in_memory(train), _in_memory(validation)
    parts = {"train": (whole[0], residuals)}
    parts["validation"] = (whole[1], validation.energies - references.of(validation))
    arrays = {"mean": scaler.mean, "scale": scaler.scale, "energy": np.array([scaler.energy])}
    for name, (part, energies) in parts.items():
        fields = (part.fingerprints, part.numbers, part.offsets, energies)
        names = ("fingerprints", "numbers", "offsets", "energies")
        arrays |= {
            f"{name}.{n}": np.ascontiguousarray(a) for n, a in zip(names, fields, strict=True)
        }
    run = digest("amptorch", TRAINER_VERSION, options.decisive(), seed, *arrays.values())
    network = Network.of(options, train.features, train.elements)
    kept, zeros = Checkpoint(checkpoint, run, options), np.zeros(network.size, options.precision)
    state = kept.load() or State(zeros, zeros.copy(), {"average": zeros[:0]})
    if not is_over(options, [epoch.validation_mae for epoch in state.history]):
        state.best = _train_on(state, arrays, options, seed, lambda: kept.tell(state, on_epoch))
        kept.save(state)
    best = state.best_epoch
    fit = Fit(references, scaler, network, state.best.astype(np.float64))
    return Trained(fit, state.history, best.number, best.validation_mae)


def _in_memory(part: Structures) -> Dataset:
    """AMPTorch has all structures in memory; so do we, when we hand them over."""
    fingerprints = np.concatenate([piece.fingerprints for piece in part.pieces()])
    return Dataset(fingerprints, part.numbers.astype(np.int64), part.offsets, part.energies)


def _train_on(
    state: State,
    arrays: dict[str, NDArray[np.generic]],
    options: Training,
    seed: int,
    tell: Callable[[], None],
) -> NDArray[np.floating]:
    """Train from where `state` stands, keep it up to date, and return the best epoch's weights."""
    require_amptorch()
    warn_of_defects()
    errors = [epoch.validation_mae for epoch in state.history]
    # Nobody else writes there: the pickles that AMPTorch reads are those that it has just written.
    with tempfile.TemporaryDirectory(prefix="ampflow-amptorch-") as name:
        folder = Path(name)
        save_file(arrays, folder / DATA)
        job = {"options": options.model_dump(mode="json"), "seed": seed, "errors": errors}
        write_json(folder / JOB, job)
        left = {"weights": state.weights, "best": state.best, **state.memory}
        save_file(left, folder / STATE)
        with _child(folder) as child:
            assert child.stdout is not None
            for line in child.stdout:
                epoch = Epoch(*json.loads(line))
                if not np.isfinite([epoch.train_mae, epoch.validation_mae]).all():
                    raise Diverged(
                        f"training diverged in epoch {epoch.number}",
                        "lower the learning rate (lr)",
                    )
                found = load_file(folder / STATE)
                state.weights, average = found.pop("weights"), state.memory["average"]
                state.memory = {"average": average, **found}
                state.add(epoch)
                tell()
                with suppress(OSError):  # it has ended, which is seen below
                    release_child(child)
            child.wait()
        if child.returncode or not (folder / BEST).is_file():
            words = (folder / "words").read_text(errors="replace").strip().splitlines()
            raise AmpflowError(f"AMPTorch failed: {' | '.join(words[-3:])}", "docs/amptorch.md")
        weights: NDArray[np.floating] = load_file(folder / BEST)["weights"]
        return weights


@contextmanager
def _child(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the training; it ends with this block, and with this process."""
    module = "ampflow.potential.amptorch.child"
    with (folder / "words").open("wb") as words:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
