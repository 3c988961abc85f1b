"""The reference engine: torch and its autograd, on the CPU or a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ampflow.experiment import Training
from ampflow.potential.engine import BETA1, BETA2, EPSILON, Samples, averaging
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
        self._options, self._unit = options, train.unit
        self._device = torch.device(device)
        self._train = _Part(train, self._device)
        self._validation = _Part(validation, self._device)

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """Step once a batch through the train samples in `order`."""
        random = torch.Generator(self._device).manual_seed(key)
        memory = state.memory
        arrays = (state.weights, memory["first"], memory["second"], memory["average"])
        kept = [torch.from_numpy(array) for array in arrays]
        vectors = [vector.to(self._device) for vector in kept]
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in np.split(order, ends[:-1]):
            errors, _, gradient = self._differentiate(vectors[0], batch, random)
            state.steps += 1
            total += errors.sum()
            _step(vectors, gradient, self._options, lr, state.steps)
        for vector, result in zip(kept, vectors, strict=True):
            vector.copy_(result)  # from a GPU; on the CPU they are the same memory
        return float(total) / len(order)

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """Return mean absolute error, loss and the loss's gradient over all train samples."""
        random = torch.Generator(self._device).manual_seed(key)
        vector = torch.from_numpy(weights).to(self._device)
        everything = np.arange(len(self._train))
        errors, loss, gradient = self._differentiate(vector, everything, random)
        return float(errors.mean()), float(loss), gradient.double().cpu().numpy()

    def error(self, weights: NDArray[np.floating]) -> float:
        """Return the mean absolute error on the validation samples, in the scaler's unit."""
        vector = torch.from_numpy(weights).to(self._device)
        with torch.no_grad():
            everything = np.arange(len(self._validation))
            return float(self._validation.errors(self._network, vector, everything).abs().mean())

    def _differentiate(
        self, weights: Tensor, batch: NDArray[np.int64], random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return absolute errors, the mean loss and its gradient."""
        leaf = weights.detach().requires_grad_()
        errors = self._train.errors(self._network, leaf, batch, self._options, random)
        loss = _loss(errors, self._options, self._unit)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return errors.detach().abs(), loss.detach(), gradient


def _loss(errors: Tensor, options: Training, unit: float) -> Tensor:
    if options.loss == "mae":
        return errors.abs().mean()
    zero = torch.zeros_like(errors)
    if options.loss == "mse":
        return functional.mse_loss(errors, zero)
    return functional.huber_loss(errors, zero, delta=options.huber_delta / unit)


def _step(vectors: list[Tensor], gradient: Tensor, options: Training, lr: float, step: int) -> None:
    weights, first, second, average = vectors
    if options.clip:
        gradient = gradient * (options.clip / gradient.norm().clamp(min=options.clip))
    if options.optimizer == "adamw":
        weights.mul_(1 - lr * options.weight_decay)
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    size = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
    weights.addcdiv_(first, size, value=-lr / (1 - BETA1**step))
    if len(average):
        average.lerp_(weights, 1 - averaging(options.ema_decay, step))


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
        """Return the errors of the structures `batch`: float64, with dropout if random."""
        sizes = np.diff(self._offsets)[batch]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms = torch.from_numpy(np.repeat(self._offsets[:-1][batch], sizes) + within)
        owner = torch.from_numpy(np.repeat(np.arange(len(batch)), sizes)).to(self._device)
        dropout = options.dropout_rate if options else 0.0
        features = self._features[atoms.to(self._device)]
        energies = atomic_energies(network, weights, features, dropout, random).double()
        sums = torch.zeros(len(batch), dtype=torch.float64, device=self._device)
        targets = self._targets[torch.from_numpy(batch).to(self._device)]
        return sums.index_add(0, owner, energies) - targets
