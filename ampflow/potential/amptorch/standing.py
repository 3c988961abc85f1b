"""Where a training by AMPTorch stands, as arrays: what it takes to go on as if it never stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

__all__ = ["flat_weights", "restore", "standing"]

_OPTIMIZER, _RANDOM = "optimizer", "random"


def flat_weights(module: Any) -> NDArray[Any]:
    """Return the weights as `ampflow.potential.network.Network` has them in one vector."""
    matrices = [torch.cat([m.weight, m.bias[:, None]], dim=1) for m in _layers(module)]
    found: NDArray[Any] = torch.cat([matrix.detach().ravel() for matrix in matrices]).numpy()
    return found


def _fill(module: Any, weights: NDArray[Any]) -> None:
    """Give the module the weights that `flat_weights` returned."""
    rest = torch.from_numpy(weights)
    with torch.no_grad():
        for layer in _layers(module):
            outputs, inputs = layer.weight.shape
            matrix, rest = rest.tensor_split([outputs * (inputs + 1)])
            matrix = matrix.view(outputs, inputs + 1)
            layer.weight[:], layer.bias[:] = matrix[:, :-1], matrix[:, -1]


def _layers(module: Any) -> Iterator[torch.nn.Linear]:
    return (part for part in module.modules() if isinstance(part, torch.nn.Linear))


def standing(net: Any) -> dict[str, NDArray[Any]]:
    """Return weights, the optimiser's memory and the random numbers' state between two epochs.

    Parameters
    ----------
    net
        skorch's, of `AtomsTrainer`.
    """
    found = {"weights": flat_weights(net.module_), _RANDOM: torch.get_rng_state().numpy()}
    for place, values in net.optimizer_.state_dict()["state"].items():
        for name, value in values.items():
            found[f"{_OPTIMIZER}.{place}.{name}"] = value.numpy()
    return found


def restore(net: Any, arrays: dict[str, NDArray[Any]], errors: Sequence[float]) -> None:
    """Let a training that has just begun stand where another one did.

    Parameters
    ----------
    arrays
        What `standing` returned after the last epoch, and `best`, the weights of the best one,
        which become AMPTorch's checkpoint.
    errors
        Of validation, of the epochs that are done, eV.
    """
    from skorch.callbacks import Checkpoint, EpochScoring, LRScheduler

    callbacks = [callback for _, callback in net.callbacks_]
    [checkpoint] = [c for c in callbacks if isinstance(c, Checkpoint)]
    _fill(net.module_, arrays["best"])
    net.save_params(f_params=checkpoint.fn_prefix + checkpoint.f_params)
    [scoring] = [
        c for c in callbacks if isinstance(c, EpochScoring) and c.name_ == "val_energy_mae"
    ]
    scoring.best_score_ = min(errors)
    [scheduler] = [c.lr_scheduler_ for c in callbacks if isinstance(c, LRScheduler)]
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    for error in errors:  # the same steps give the same rates, to the last bit
        scheduler.step(*[error] * plateau)

    _fill(net.module_, arrays["weights"])
    memory: dict[int, dict[str, Any]] = {}
    for key, value in arrays.items():
        what, _, rest = key.partition(".")
        if what == _OPTIMIZER:
            place, _, name = rest.partition(".")
            memory.setdefault(int(place), {})[name] = torch.from_numpy(value)
    net.optimizer_.load_state_dict({**net.optimizer_.state_dict(), "state": memory})
    torch.set_rng_state(torch.from_numpy(arrays[_RANDOM]))
