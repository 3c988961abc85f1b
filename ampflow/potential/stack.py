"""Several trainings at once in one process, none of which notices the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.experiment import Training
from ampflow.potential.engine import Engine, Samples, StreamedSamples
from ampflow.potential.network import Network
from ampflow.potential.state import State
from ampflow.potential.training import make_engine

if TYPE_CHECKING:
    from ampflow.potential.torch_stack import TorchStack

__all__ = ["Capacity", "Stack"]


@dataclass(frozen=True)
class Capacity:
    """What a stack on a GPU has room for; results there depend on it to the last bits.

    Parameters
    ----------
    slots
        Trainings at once.
    layers, nodes
        Of the largest network.
    activations
        That networks may have.
    dropout
        Whether nodes may be dropped.
    """

    slots: int
    layers: int
    nodes: int
    activations: tuple[str, ...]
    dropout: bool

    def holds(self, network: Network, options: Training) -> bool:
        """Tell whether a training fits: forces, networks of elements and what is larger do not."""
        return (
            not options.differentiates
            and not network.elements
            and network.layers <= self.layers
            and network.nodes <= self.nodes
            and network.activation in self.activations
            and (self.dropout or not options.dropout_rate)
        )


class Stack:
    """Makes engines for the trainings of a process, each in a thread of its own.

    On the CPU they take turns, an epoch each, so that each has core and cache to itself. On a GPU
    those on the same data make their steps together; one that does not fit (`Capacity.holds`)
    trains beside them.
    """

    def __init__(self, capacity: Capacity, device: str = "cuda") -> None:
        self._capacity, self._device = capacity, device
        self._turn, self._making = threading.Lock(), threading.Lock()
        self._stacks: WeakValueDictionary[str, TorchStack] = WeakValueDictionary()

    @contextmanager
    def member(
        self,
        network: Network,
        train: Samples | StreamedSamples,
        validation: Samples | StreamedSamples,
        options: Training,
    ) -> Iterator[Engine]:
        """Make an engine for one training, which leaves the stack at the end of the `with`."""
        if options.device != "cuda":
            with self._turn:
                engine = make_engine(network, train, validation, options)
            yield _InTurn(engine, self._turn)
        elif (
            isinstance(train, Samples)
            and isinstance(validation, Samples)
            and self._capacity.holds(network, options)
        ):
            with self._stack(train, validation).member(
                network, train, validation, options
            ) as engine:
                yield engine
        else:
            yield make_engine(network, train, validation, options)

    def _stack(self, train: Samples, validation: Samples) -> TorchStack:
        """Return the stack on these structures, made by the first who needs it."""
        parts = (train.features, train.offsets, validation.features, validation.offsets)
        name = digest(*parts)
        with self._making:
            found = self._stacks.get(name)
            if found is None:
                from ampflow.potential.torch_stack import TorchStack  # imports torch: 2 s

                found = self._stacks[name] = TorchStack(
                    self._capacity, train, validation, self._device
                )
            return found


class _InTurn:
    """An engine that works when it is its turn."""

    def __init__(self, engine: Engine, turn: threading.Lock) -> None:
        self._engine, self._turn = engine, turn

    def expect(self, orders: Sequence[NDArray[np.int64]]) -> None:
        """As `Engine` has it."""
        self._engine.expect(orders)

    def epoch(
        self, state: State, order: NDArray[np.int64], ends: NDArray[np.int64], lr: float, key: int
    ) -> float:
        """As `Engine` has it."""
        with self._turn:
            return self._engine.epoch(state, order, ends, lr, key)

    def gradient(
        self, weights: NDArray[np.floating], key: int
    ) -> tuple[float, float, NDArray[np.float64]]:
        """As `Engine` has it."""
        with self._turn:
            return self._engine.gradient(weights, key)

    def errors(self, weights: NDArray[np.floating]) -> tuple[float, float, float]:
        """As `Engine` has it."""
        with self._turn:
            return self._engine.errors(weights)
