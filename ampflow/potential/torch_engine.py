"""The reference engine: torch and its autograd, on the CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ampflow.experiment import Training
from ampflow.potential.engine import BETA1, BETA2, EPSILON, ForceSamples, Samples, averaging
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
    numbers: NDArray[np.integer] | None = None,
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
    numbers
        (atoms,) atomic numbers, which networks of elements need.
    dropout
        Share of nodes set to zero after each hidden layer, drawn from `generator`.
    """
    if not network.elements:
        return _energies(network, weights, features, dropout, generator)
    assert numbers is not None
    energies = features.new_zeros(len(features))
    for own, atoms in network.divide(weights, numbers):
        index = torch.from_numpy(atoms).to(features.device)
        found = _energies(network, own, features[index], dropout, generator)
        energies = energies.index_add(0, index, found)
    return energies


def _energies(
    network: Network,
    weights: Tensor,
    features: Tensor,
    dropout: float,
    generator: torch.Generator | None,
) -> Tensor:
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

    def expect(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """Do nothing: all is in memory."""

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

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float, float]:
        """Return mean absolute errors on the validation samples, in the scaler's unit."""
        vector = torch.from_numpy(weights).to(self._device)
        everything = np.arange(len(self._validation))
        energies, *others = self._validation.errors(self._network, vector, everything)
        wanted = self._options.force_weight > 0, self._options.stress_weight > 0
        means = [
            float(found.detach().abs().mean()) if found is not None and is_wanted else math.nan
            for found, is_wanted in zip(others, wanted, strict=True)
        ]
        return float(energies.detach().abs().mean()), means[0], means[1]

    def _differentiate(
        self, weights: Tensor, batch: NDArray[np.int64], random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return absolute errors, the mean loss and its gradient."""
        leaf = weights.detach().requires_grad_()
        options = self._options
        kind, delta = options.loss, options.huber_delta / self._unit
        errors, forces, stresses = self._train.errors(
            self._network, leaf, batch, options.dropout_rate, random
        )
        loss = _losses(errors, kind, delta).mean()
        if forces is not None:
            found = _losses(forces, kind, delta).mean(dim=1)
            shares = torch.from_numpy(self._train.shares(batch)).to(self._device)
            loss = loss + options.force_weight * (found * shares).sum()
        if stresses is not None:
            loss = loss + options.stress_weight * _losses(stresses, kind, delta).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return errors.detach().abs(), loss.detach(), gradient


def _losses(errors: Tensor, kind: str, delta: float) -> Tensor:
    if kind == "mae":
        return errors.abs()
    if kind == "mse":
        return errors**2
    return functional.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=delta)


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
        self._forces, self._numbers = part.forces, part.numbers

    def __len__(self) -> int:
        return len(self._targets)

    def shares(self, batch: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what each atom of a batch weighs in the mean over structures: (atoms,)."""
        sizes = np.diff(self._offsets)[batch]
        return np.repeat(1 / (len(batch) * sizes), sizes)

    def errors(
        self,
        network: Network,
        weights: Tensor,
        batch: NDArray[np.int64],
        dropout: float = 0.0,
        random: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the errors of energies (structures,), forces (atoms, 3), stresses, in float64."""
        sizes = np.diff(self._offsets)[batch]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        atoms = np.repeat(self._offsets[:-1][batch], sizes) + within
        owner = torch.from_numpy(np.repeat(np.arange(len(batch)), sizes)).to(self._device)
        features = self._features[torch.from_numpy(atoms).to(self._device)]
        if self._forces is not None:
            features.requires_grad_()
        numbers = None if self._numbers is None else self._numbers[atoms]
        energies = atomic_energies(network, weights, features, numbers, dropout, random).double()
        sums = torch.zeros(len(batch), dtype=torch.float64, device=self._device)
        targets = self._targets[torch.from_numpy(batch).to(self._device)]
        errors = sums.index_add(0, owner, energies) - targets
        if self._forces is None:
            return errors, None, None
        extra = self._forces.extra
        rows = sizes + extra
        firsts = np.cumsum(rows) - rows
        begins = self._offsets[:-1][batch] + extra * batch
        wanted = np.repeat(begins - firsts, rows) + np.arange(rows.sum())
        found = self._row_errors(
            energies, features, self._forces, atoms, np.repeat(firsts, sizes), wanted
        )
        strained = np.arange(rows.sum()) - np.repeat(firsts, rows) >= np.repeat(sizes, rows)
        strain = torch.from_numpy(strained).to(self._device)
        return errors, found[~strain], found[strain] if extra else None

    def _row_errors(
        self,
        energies: Tensor,
        features: Tensor,
        given: ForceSamples,
        atoms: NDArray[np.int64],
        first: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> Tensor:
        """Differentiate the energies; `first` is where the rows of each atom's structure begin.

        `rows` are those of the targets; see `ForceSamples`.
        """
        (slopes,) = torch.autograd.grad(energies.sum(), features, create_graph=True)
        scales = torch.from_numpy(given.scales).to(slopes)
        mine = given.derivatives.take(atoms)
        counts = np.diff(mine.starts)
        centre, moved = np.repeat(np.arange(len(atoms)), counts), mine.moved
        moved = moved + np.repeat(first, counts)
        values = torch.from_numpy(mine.values).to(slopes)
        pulled = (slopes / scales)[torch.from_numpy(centre).to(self._device)]
        parts = -torch.einsum("bkf,bf->bk", values, pulled).double()
        targets = torch.from_numpy(given.targets[rows]).to(self._device)
        return (-targets).index_add(0, torch.from_numpy(moved).to(self._device), parts)
