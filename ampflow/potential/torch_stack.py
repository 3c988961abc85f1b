"""Trainings side by side in torch: padded to one size, each step of all in a few operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ampflow.experiment import Training
from ampflow.potential.engine import Samples
from ampflow.potential.kernels import LOSSES
from ampflow.potential.network import Network
from ampflow.potential.rounds import Rounds
from ampflow.potential.stack import Capacity
from ampflow.potential.state import State
from ampflow.potential.ticks import (
    MEASURED,
    TRAINED,
    Number,
    Ticks,
    adam_numbers,
    atoms_of_tick,
    cut,
)
from ampflow.potential.torch_ticks import ACTIVATIONS, VECTORS, Device, Sizes

__all__ = ["TorchStack"]


@dataclass
class _Request:
    """What a member wants done: ticks on its vectors, which are changed in place."""

    network: Network
    ticks: Ticks
    vectors: dict[str, NDArray[np.floating]]
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


class TorchStack:
    """Trainings on the same structures; see `Stack`.

    Parameters
    ----------
    train, validation
        Their features and offsets are those of all members; targets are each member's own.
    """

    def __init__(
        self, capacity: Capacity, train: Samples, validation: Samples, device: str
    ) -> None:
        self._room, self._capacity = atoms_of_tick(train, validation), capacity
        self._rows = len(train.features), len(train.features) + len(validation.features)
        self._sizes = Sizes(train.features.shape[1], capacity)
        features = np.zeros((self._rows[1] + 1, self._sizes.inputs), train.features.dtype)
        features[:-1, : train.features.shape[1]] = np.concatenate(
            [train.features, validation.features]
        )
        self._device = Device(self._sizes, capacity, self._room, features, device)
        self._rounds: Rounds[_Request] = Rounds(self._run, capacity.slots)

    @contextmanager
    def member(
        self, network: Network, train: Samples, validation: Samples, options: Training
    ) -> Iterator[_Member]:
        """Make an engine for one training; see `Stack.member`."""
        with self._rounds.joined():
            rows = self._rows
            yield _Member(network, train, validation, options, self._rounds, self._room, rows)

    def _run(self, requests: list[_Request]) -> None:
        vectors = {name: np.zeros(self._sizes.shape, self._device.dtype) for name in VECTORS}
        for slot, request in enumerate(requests):
            for name, vector in request.vectors.items():
                if len(vector) and name != "gradient":
                    for own, padded in self._sizes.places(
                        request.network, vector, vectors[name][slot]
                    ):
                        padded[:] = own
        sums = self._device.run([request.ticks for request in requests], vectors)
        for slot, request in enumerate(requests):
            request.sums[:] = sums[slot]
            for name, vector in request.vectors.items():
                if len(vector):
                    for own, padded in self._sizes.places(
                        request.network, vector, vectors[name][slot]
                    ):
                        own[:] = padded


class _Member:
    """The engine of one training in a stack."""

    def __init__(
        self,
        network: Network,
        train: Samples,
        validation: Samples,
        options: Training,
        rounds: Rounds[_Request],
        room: int,
        rows: tuple[int, int],
    ) -> None:
        self._network, self._train, self._options, self._rounds = network, train, options, rounds
        self._room, self._rows, self._validated = room, rows, len(validation)
        everything = np.arange(len(validation))
        self._measuring = cut(validation, everything, everything[-1:] + 1, room, rows)
        self._measuring.shares[:] = 0
        self._describe(self._measuring, MEASURED, 0)
        self._measuring.numbers[:, [Number.STEP, Number.DROPOUT]] = 0
        self._parts_left = 1
        self._found: tuple[NDArray[np.floating], float] | None = None

    def expect(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """As `Engine` has it; after the last of them the validation samples are measured."""
        self._parts_left = len(orders)

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """As `Engine` has it."""
        options = self._options
        self._parts_left -= 1
        ticks = self._training(order, ends, key)
        decay = options.weight_decay if options.optimizer == "adamw" else 0.0
        adam_numbers(ticks.numbers, state.steps, lr, decay, options.ema_decay)
        if self._parts_left <= 0:
            after = replace(self._measuring, numbers=self._measuring.numbers.copy())
            after.numbers[:, Number.JUDGED] = bool(options.ema_decay)
            ticks = ticks.then(after)
        memory = {name: state.memory[name] for name in ("first", "second", "average")}
        sums = self._ask(ticks, {"weights": state.weights, **memory})
        state.steps += len(ends)
        if self._parts_left <= 0:
            self._found = state.judged.copy(), float(sums[2]) / self._validated
        return float(sums[0]) / len(order)

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """As `Engine` has it."""
        count = len(self._train)
        ticks = self._training(np.arange(count), np.array([count]), key)
        ticks.numbers[:, Number.STEP] = 0
        gradient = np.zeros_like(weights)
        sums = self._ask(ticks, {"weights": weights.copy(), "gradient": gradient})
        return float(sums[0]) / count, float(sums[1]) / count, gradient.astype(np.float64)

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float, float]:
        """As `Engine` has it."""
        if self._found is None or not np.array_equal(self._found[0], weights):
            sums = self._ask(self._measuring, {"weights": weights.copy()})
            return float(sums[2]) / self._validated, math.nan, math.nan
        return self._found[1], math.nan, math.nan

    def _training(self, order: NDArray[np.int64], ends: NDArray[np.int64], key: int) -> Ticks:
        ticks = cut(self._train, order, ends, self._room, (0, self._rows[1]))
        self._describe(ticks, TRAINED, key)
        return ticks

    def _describe(self, ticks: Ticks, kind: int, key: int) -> None:
        network, options, numbers = self._network, self._options, ticks.numbers
        numbers[:, Number.KIND] = kind
        numbers[:, Number.LAYERS] = network.layers
        numbers[:, Number.ACTIVATION] = list(ACTIVATIONS).index(network.activation)
        numbers[:, Number.LOSS] = LOSSES[options.loss]
        numbers[:, Number.DELTA] = options.huber_delta / self._train.unit
        numbers[:, Number.KEY] = key % 2**32
        numbers[:, Number.DROPOUT] = options.dropout_rate
        numbers[:, Number.CLIP] = options.clip

    def _ask(self, ticks: Ticks, vectors: dict[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        request = _Request(self._network, ticks, vectors)
        self._rounds.ask(request)
        return request.sums
