"""The reference engine: torch and its autograd, on the CPU or a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ampflow.experiment import Training
from ampflow.potential.engine import BETA1, BETA2, EPSILON, Samples
from ampflow.potential.network import Network
from ampflow.potential.state import State

__all__ = ["TorchEngine", "atomic_energies"]

_FUNCTIONS: dict[str, Any] = {
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}


def atomic_energies(
    network: Network,
    weights: Tensor,
    features: Tensor,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the energy of each atom, in the scaler's unit: (atoms,).

    Parameters
    ----------
    weights
        (network.size,)
    features
        (atoms, features), standardised.
    dropout
        Share of nodes set to zero after each hidden layer, drawn from `generator`.
    """
    activation = _FUNCTIONS[network.activation]
    *hidden, last = network.matrices(weights)
    value = features
    for matrix in hidden:
        value = activation(torch.addmm(matrix[:, -1], value, matrix[:, :-1].t()))
        if dropout:
            drawn = torch.rand(value.shape, generator=generator, device=value.device)
            value = value * (drawn >= dropout).to(value.dtype) / (1 - dropout)
    energies: Tensor = value @ last[:, :-1].t() + last[:, -1]
    return energies.squeeze(1)


class TorchEngine:
    """Runs each batch through torch's autograd; see `Engine` for what it promises."""

    def __init__(
        self, network: Network, train: Samples, validation: Samples, options: Training, device: str
    ) -> None:
        self._network = network
        self._options = options
        self._device = torch.device(device)
        self._train = _Part(train, self._device)
        self._validation = _Part(validation, self._device)

    def epoch(self, state: State, order: NDArray[np.int64], lr: float, key: int) -> float:
        """Step once a batch through the train samples in `order`."""
        random = torch.Generator(self._device).manual_seed(key)
        size = self._options.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        steps = len(state.history) * len(batches)
        kept = [torch.from_numpy(v) for v in (state.weights, state.first, state.second)]
        weights, first, second = (vector.to(self._device) for vector in kept)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for done, batch in enumerate(batches, start=steps + 1):
            leaf = weights.detach().requires_grad_()
            errors = self._train.errors(self._network, leaf, batch, self._options, random)
            total += errors.detach().sum()
            (gradient,) = torch.autograd.grad(errors.mean(), leaf)
            _adam(weights, first, second, gradient, lr, done)
        for vector, result in zip(kept, (weights, first, second), strict=True):
            vector.copy_(result)  # from a GPU; on the CPU they are the same memory
        return float(total) / len(order)

    def error(self, weights: NDArray[np.floating]) -> float:
        """Return the mean absolute error on the validation samples, in the scaler's unit."""
        vector = torch.from_numpy(weights).to(self._device)
        with torch.no_grad():
            everything = np.arange(len(self._validation))
            return float(self._validation.errors(self._network, vector, everything).mean())


def _adam(
    weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor, lr: float, step: int
) -> None:
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    size = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
    weights.addcdiv_(first, size, value=-lr / (1 - BETA1**step))


class _Part:
    """Samples on a device, batches of which are gathered from one contiguous tensor."""

    def __init__(self, part: Samples, device: torch.device) -> None:
        self._features = torch.from_numpy(part.features).to(device)
        self._targets = torch.from_numpy(part.targets).to(device)
        self._offsets = part.offsets
        self._device = device

    def __len__(self) -> int:
        return len(self._targets)

    def errors(
        self,
        network: Network,
        weights: Tensor,
        batch: NDArray[np.int64],
        options: Training | None = None,
        random: torch.Generator | None = None,
    ) -> Tensor:
        """Return the absolute errors of the structures `batch`: float64, with dropout if random."""
        sizes = np.diff(self._offsets)[batch]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms = torch.from_numpy(np.repeat(self._offsets[:-1][batch], sizes) + within)
        owner = torch.from_numpy(np.repeat(np.arange(len(batch)), sizes)).to(self._device)
        dropout = options.dropout_rate if options else 0.0
        features = self._features[atoms.to(self._device)]
        energies = atomic_energies(network, weights, features, dropout, random).double()
        sums = torch.zeros(len(batch), dtype=torch.float64, device=self._device)
        targets = self._targets[torch.from_numpy(batch).to(self._device)]
        return (sums.index_add(0, owner, energies) - targets).abs()
