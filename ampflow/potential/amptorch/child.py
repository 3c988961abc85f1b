"""One training by AMPTorch, in a process of its own: `python -m ...child FOLDER`.

AMPTorch changes the working folder, torch's default type and the global seeds, and prints; here
that harms nobody. Each epoch is told as a line of JSON, with a file of where the training stands
then, and the next one begins when the parent says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ampflow.children import end_with_parent
from ampflow.dataset import Dataset
from ampflow.experiment import Training
from ampflow.files import read_json
from ampflow.potential.amptorch.compat import load_amptorch
from ampflow.potential.amptorch.config import Name, make_config
from ampflow.potential.amptorch.lmdb_files import write_lmdb
from ampflow.potential.amptorch.standing import flat_weights, restore, standing
from ampflow.potential.amptorch.training import BEST, DATA, JOB, STATE
from ampflow.potential.scaling import Scaler
from ampflow.potential.schedules import is_over

__all__ = ["main"]


def main(folder: Path) -> None:
    """Train as the files in `folder` say, and leave the best epoch's weights there."""
    # Sent where the parent was killed, who would have deleted the folder.
    signal.signal(signal.SIGTERM, lambda *_: _leave(folder))
    released = end_with_parent()
    # AMPTorch prints; what we say goes to where its words would have gone.
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = read_json(folder / JOB)
    options = Training.model_validate(job["options"])
    config = _config(options, job["seed"], folder)
    config["optim"]["epochs"] -= len(job["errors"])  # the schedule's stay

    def tell(net: Any, epoch: list[float]) -> None:
        save_file(standing(net), folder / STATE)
        said.write(json.dumps(epoch) + "\n")
        released.wait()
        released.clear()

    left = load_file(folder / STATE) if job["errors"] else None
    trainer = _trainer(options, config, job["errors"], left, tell)
    trainer.train()
    save_file({"weights": flat_weights(trainer.net.module_)}, folder / BEST)


def _leave(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _config(options: Training, seed: int, folder: Path) -> dict[str, Any]:
    """Write the LMDB files, and return the configuration that trains on them."""
    arrays = load_file(folder / DATA)
    scaler = Scaler(arrays["mean"], arrays["scale"], float(arrays["energy"][0]))
    parts = {name: _part(arrays, name) for name in ("train", "validation")}
    elements = np.unique(np.concatenate([part.numbers for part in parts.values()]))
    files = []
    for name, part in parts.items():
        files.append(str(folder / f"{name}.lmdb"))
        write_lmdb(
            Path(files[-1]), part, part.energies, scaler, elements, precision=options.precision
        )
    sizes = len(parts["validation"]), sum(map(len, parts.values()))
    return make_config(options, seed, files, sizes, str(folder))


def _part(arrays: dict[str, NDArray[Any]], name: str) -> Dataset:
    return Dataset(
        fingerprints=arrays[f"{name}.fingerprints"],
        numbers=arrays[f"{name}.numbers"],
        offsets=arrays[f"{name}.offsets"],
        energies=arrays[f"{name}.energies"],
    )


def _trainer(
    options: Training,
    config: dict[str, Any],
    errors: list[float],
    left: dict[str, NDArray[Any]] | None,
    tell: Callable[[Any, list[float]], None],
) -> Any:
    """Return AMPTorch's trainer with one more callback: epochs are told, and may be the last.

    Parameters
    ----------
    errors, left
        Of the epochs that an earlier process has done, and what it left.
    """
    import torch
    from skorch.callbacks import Callback

    class Told(Callback):  # type: ignore[misc, unused-ignore]
        def on_epoch_begin(self, net: Any, **_: Any) -> None:
            nonlocal left
            if left is not None:
                restore(net, left, errors)
                left = None
            self.lr = net.optimizer_.param_groups[0]["lr"]

        def on_epoch_end(self, net: Any, **_: Any) -> None:
            row = net.history[-1]
            errors.append(row["val_energy_mae"])
            number, train_mae = len(errors), row["train_energy_mae"]
            tell(net, [number, train_mae, errors[-1], self.lr, row["dur"]])
            if number < options.epochs and is_over(options, errors):
                raise KeyboardInterrupt  # how skorch's callbacks end a training

    class Trainer(load_amptorch().AtomsTrainer):  # type: ignore[misc]
        def load_extras(self) -> None:
            super().load_extras()
            self.callbacks.append(Told())

    torch.set_num_threads(1)
    return Trainer(_resolved(config))


def _resolved(item: Any) -> Any:
    """Put classes where their names are."""
    if isinstance(item, dict):
        return {key: _resolved(value) for key, value in item.items()}
    if isinstance(item, Name):
        import torch

        return reduce(getattr, item.split(".")[1:], torch)
    return item


if __name__ == "__main__":
    main(Path(sys.argv[1]))
