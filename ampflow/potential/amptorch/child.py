"""One training by AMPTorch, in a process of its own: `python -m ...child FOLDER`.

AMPTorch changes the working folder, torch's default type and the global seeds, and prints; here
that harms nobody. Each epoch is told as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from functools import reduce
from pathlib import Path
from typing import Any, TextIO

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
from ampflow.potential.amptorch.training import BEST, DATA, JOB
from ampflow.potential.scaling import Scaler
from ampflow.potential.schedules import is_over

__all__ = ["main"]


def main(folder: Path) -> None:
    """Train as the files in `folder` say, and leave the best epoch's weights there."""
    end_with_parent()
    # AMPTorch prints; what we say goes to where its words would have gone.
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = read_json(folder / JOB)
    options = Training.model_validate(job["options"])
    trainer = _trainer(options, _config(options, job["seed"], folder), said)
    trainer.train()
    save_file({"weights": _weights(trainer.net.module_)}, folder / BEST)


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


def _trainer(options: Training, config: dict[str, Any], said: TextIO) -> Any:
    """Return AMPTorch's trainer with one more callback: epochs are told, and may be the last."""
    import torch
    from skorch.callbacks import Callback

    class Told(Callback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.errors: list[float] = []

        def on_epoch_begin(self, net: Any, **_: Any) -> None:
            self.lr = net.optimizer_.param_groups[0]["lr"]

        def on_epoch_end(self, net: Any, **_: Any) -> None:
            row = net.history[-1]
            self.errors.append(row["val_energy_mae"])
            number, train_mae = len(self.errors), row["train_energy_mae"]
            told = [number, train_mae, self.errors[-1], self.lr, row["dur"]]
            said.write(json.dumps(told) + "\n")
            if number < options.epochs and is_over(options, self.errors):
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


def _weights(module: Any) -> NDArray[np.float64]:
    """Return the weights as `ampflow.potential.network.Network` has them in one vector."""
    import torch

    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    matrices = [torch.cat([m.weight, m.bias[:, None]], dim=1) for m in layers]
    flat = torch.cat([matrix.detach().double().ravel() for matrix in matrices])
    found: NDArray[np.float64] = flat.numpy()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
