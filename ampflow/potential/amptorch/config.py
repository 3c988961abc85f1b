"""AMPTorch's configuration: our options in its words. Pure; imports no AMPTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ampflow.experiment import Training

__all__ = ["Name", "make_config"]

_ACTIVATIONS = {"tanh": "Tanh", "silu": "SiLU", "gelu": "GELU", "relu": "ReLU"}
_TYPES = {"float32": "torch.FloatTensor", "float64": "torch.DoubleTensor"}


class Name(str):
    """A class of torch by its name, which is written without quotes in Python."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def make_config(
    options: Training, seed: int, files: Sequence[str], validation: tuple[int, int], folder: str
) -> dict[str, Any]:
    """Return the dictionary that `AtomsTrainer` takes, with classes as `Name`.

    Parameters
    ----------
    files
        LMDB files, which together hold the structures of train and then those of validation.
    validation
        How many structures validation has, and how many there are in all.
    folder
        Where AMPTorch is to work: it goes there, and writes `checkpoints` in it.
    """
    count, total = validation
    model = {
        "name": "singlenn",
        "get_forces": options.force_weight > 0,
        "num_layers": options.num_layers,
        "num_nodes": options.num_nodes,
        "activation": Name(f"torch.nn.{_ACTIVATIONS[options.activation]}"),
        "batchnorm": False,
        "dropout": options.dropout_rate > 0,
        "dropout_rate": options.dropout_rate,
    }
    optim = {
        "gpus": 0,
        "loss": options.loss,
        "metric": "mae",
        "force_coefficient": options.force_weight,
        "optimizer": Name(f"torch.optim.{'AdamW' if options.optimizer == 'adamw' else 'Adam'}"),
        "lr": options.lr,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "scheduler": _scheduler(options),
    }
    if options.optimizer == "adamw":
        optim["optimizer_args"] = {"optimizer__weight_decay": options.weight_decay}
    return {
        "model": model,
        "optim": optim,
        "dataset": {
            "lmdb_path": list(files),
            "cache": "full",
            # AMPTorch rounds down; the half keeps it from losing one to floating point.
            "val_split": (count + 0.5) / total,
            "val_split_mode": "inorder",
        },
        "cmd": {
            "debug": False,
            "run_dir": folder,
            "seed": seed,
            "identifier": "ampflow",
            "verbose": False,
            "logger": False,
            "dtype": Name(_TYPES[options.precision]),
        },
    }


def _scheduler(options: Training) -> dict[str, Any]:
    """Return skorch's description of our schedule; all of them step once an epoch."""
    # torch refuses a plateau that changes nothing.
    if options.schedule == "step" or (options.schedule == "plateau" and options.gamma == 1):
        params: dict[str, Any] = {"step_size": options.step_size, "gamma": options.gamma}
        return {"policy": "StepLR", "params": params}
    if options.schedule == "cosine":
        return {"policy": "CosineAnnealingLR", "params": {"T_max": options.epochs}}
    if options.schedule == "one-cycle":
        params = {
            "max_lr": options.lr,
            "total_steps": options.epochs,
            "cycle_momentum": False,  # Adam has none, and torch would change its betas
        }
        # The one that skorch does not know by name.
        return {"policy": Name("torch.optim.lr_scheduler.OneCycleLR"), "params": params}
    params = {
        "monitor": "val_energy_mae",
        "factor": options.gamma,
        "patience": options.step_size - 1,
        "threshold": 0.0,
        "eps": 0.0,
    }
    return {"policy": "ReduceLROnPlateau", "params": params}
