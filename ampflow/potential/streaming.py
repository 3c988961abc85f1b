"""Samples as the kernels want them: in memory, or read a window ahead of the training."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called
from ampflow.digests import digest
from ampflow.potential import blocks
from ampflow.potential.blocks import Part
from ampflow.potential.engine import ForceSamples, Samples, StreamedSamples
from ampflow.potential.force_kernels import Forces
from ampflow.potential.network import Network
from ampflow.potential.runs import find_runs, in_order, places
from ampflow.potential.shuffling import natural

__all__ = ["Resident", "Source", "Stream", "source"]

Order = NDArray[np.int64]

_AHEAD = 2  # windows to read while one is trained on: the last of an epoch may be short

_copies: WeakValueDictionary[str, NDArray[np.floating]] = WeakValueDictionary()
_copying = threading.Lock()


class Source(Protocol):
    """Structures for the kernels, some at a time."""

    @property
    def forces(self) -> Forces | None:
        """What forces need, where they are trained on."""

    def __len__(self) -> int:
        """Structures."""

    @property
    def atoms(self) -> int:
        """Atoms of all structures."""

    def expect(self, orders: Sequence[Order]) -> None:
        """Hear what the next calls of `at` will ask for, to read it ahead."""

    def at(self, order: Order) -> tuple[Part, Order]:
        """Return structures, and where they are among them; until the next call."""

    def all(self) -> Iterator[tuple[Part, Order]]:
        """Go through all structures as they lie."""


def source(samples: Samples | StreamedSamples, network: Network) -> Source:
    """Return the samples as the kernels want them for a network."""
    if isinstance(samples, StreamedSamples):
        return Stream(samples, network)
    return Resident.of(samples, network)


@dataclass(frozen=True)
class Resident:
    """Samples in memory."""

    part: Part
    forces: Forces | None
    orders: list[Order]

    @classmethod
    def of(cls, samples: Samples, network: Network) -> Resident:
        """Copy samples into the order of the kernels, once for all trainings that have them."""
        runs, count = find_runs(samples.offsets, samples.numbers, network), network.features
        layout = places(runs, count)
        name = digest(samples.features, *layout)
        with _copying:
            features = _copies.get(name)
            if features is None:
                features = np.empty(samples.features.size, samples.features.dtype)
                called(blocks.transpose, samples.features, *layout, features)
                _copies[name] = features
        orders, given = natural(np.diff(samples.offsets), count), samples.forces
        if given is not None and network.elements:
            given = in_order(given, samples.offsets, runs.order)
        forces = None if given is None else _forces(given, features.dtype)
        return cls(Part(features, *runs[1:], samples.targets), forces, orders)

    def __len__(self) -> int:
        return len(self.part.targets)

    @property
    def atoms(self) -> int:
        """Atoms of all structures."""
        return int(self.part.starts[-1])

    def expect(self, orders: Sequence[Order]) -> None:
        """Do nothing: all is there."""

    def at(self, order: Order) -> tuple[Part, Order]:
        """Return all structures, and the order itself."""
        return self.part, order

    def all(self) -> Iterator[tuple[Part, Order]]:
        """Go through all structures as they lie."""
        for order in self.orders:
            yield self.part, order


def _forces(part: ForceSamples, dtype: np.dtype[Any]) -> Forces:
    blocks, axes, features = part.derivatives.values.shape
    rows = np.zeros((axes * blocks, -(-features // 8) * 8), dtype)
    rows[:, :features] = part.derivatives.values.reshape(-1, features)
    starts, moved = part.derivatives.starts.copy(), part.derivatives.moved.copy()
    scales = part.scales.astype(dtype)
    return Forces(starts, moved, rows, scales, part.targets, part.extra)


@dataclass
class Stream:
    """Samples in a store: a thread reads a window while the kernels train on the one before.

    There is a buffer to train on, and `_AHEAD` to read into; kernels and most of reading go on
    outside Python's lock.
    """

    samples: StreamedSamples
    network: Network
    forces: Forces | None = None  # training on forces needs memory

    _coming: deque[Order] = field(default_factory=deque)
    _next: int = 0  # buffer that was read into last
    _reading: deque[tuple[Order, Future[Part]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        offsets = self.samples.offsets
        self._orders = natural(np.diff(offsets), self.samples.dataset.features)
        self._reader = ThreadPoolExecutor(1, "reader")
        self._buffers = [np.empty(0, self.samples.precision) for _ in range(_AHEAD + 1)]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def atoms(self) -> int:
        """Atoms of all structures."""
        return int(self.samples.offsets[-1])

    def expect(self, orders: Sequence[Order]) -> None:
        """Read the first of what will be asked for, while something else goes on."""
        self._coming.extend(orders)
        self._read_ahead()

    def at(self, order: Order) -> tuple[Part, Order]:
        """Return the structures of a window, one after the other.

        Raises
        ------
        StorageError
            If they cannot be read, or are damaged.
        """
        if not self._reading or self._reading[0][0] is not order:
            self._coming.clear()
            while self._reading:  # what was expected is not wanted
                self._reading.popleft()[1].exception()
            self._read(order)
        part = self._reading[0][1].result()
        self._reading.popleft()
        self._read_ahead()
        return part, np.arange(len(order))

    def all(self) -> Iterator[tuple[Part, Order]]:
        """Go through all structures as they lie, and begin to read them once more."""
        if not self._reading:
            self.expect(self._orders)
        for order in self._orders:
            if order is self._orders[-1]:
                self._coming.append(self._orders[0])
            yield self.at(order)
        self._coming.extend(self._orders[1:])

    def _read_ahead(self) -> None:
        while self._coming and len(self._reading) < _AHEAD:
            self._read(self._coming.popleft())

    def _read(self, order: Order) -> None:
        self._next = (self._next + 1) % len(self._buffers)  # the last but `_AHEAD` may be in use
        self._reading.append((order, self._reader.submit(self._fill, order, self._next)))

    def _fill(self, order: Order, number: int) -> Part:
        samples, scaler = self.samples, self.samples.scaler
        sizes = np.diff(samples.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        needed = int(offsets[-1]) * samples.dataset.features
        if len(self._buffers[number]) < needed:
            self._buffers[number] = np.empty(needed, samples.precision)
        features = self._buffers[number][:needed]
        runs = find_runs(offsets, self._numbers(order, offsets), self.network)
        to = places(runs, samples.dataset.features)
        for where, starts, values in samples.dataset.read(order):
            args = values, starts, offsets[where], sizes[where], *to, scaler.mean, scaler.scale
            called(blocks.standardise, *args, features)
        return Part(features, *runs[1:], samples.targets[order])

    def _numbers(self, order: Order, offsets: Order) -> NDArray[np.integer] | None:
        """Return the atomic numbers of a window, where networks differ by element."""
        if not self.network.elements:
            return None
        begins = self.samples.offsets[:-1][order]
        atoms = np.repeat(begins - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])
        numbers: NDArray[np.integer] = self.samples.numbers[atoms]
        return numbers
