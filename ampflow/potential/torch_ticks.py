"""What a stack's trainings have on the device, and what happens to them in a tick.

A slot's results depend on its own numbers and the capacity. No operation mixes slots, none has
another shape when others join or leave, and padding is zeros that stay zeros. On a GPU a tick
is one CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ampflow.potential.engine import BETA1, BETA2, EPSILON
from ampflow.potential.kernels import LOSSES
from ampflow.potential.network import Network
from ampflow.potential.stack import Capacity
from ampflow.potential.ticks import MEASURED, STRUCTURES, TRAINED, Number, Ticks

__all__ = ["ACTIVATIONS", "VECTORS", "Device", "Sizes"]

VECTORS = ("weights", "first", "second", "average", "gradient")
_TICKS = 32  # whose numbers are on the device at a time


class Sizes:
    """Padded weights of a slot: matrix and biases of each layer, all of whole cache lines."""

    def __init__(self, features: int, capacity: Capacity) -> None:
        self.inputs, self.nodes = _whole(features), _whole(capacity.nodes)
        self.layers = capacity.layers
        inputs = [self.inputs, *[self.nodes] * self.layers]
        outputs = [*[self.nodes] * self.layers, 1]
        self.matrices: list[tuple[int, int, int]] = []  # where it begins, outputs, inputs
        size = 0
        for out, into in zip(outputs, inputs, strict=True):
            self.matrices.append((size, out, into))
            size += out * into + _whole(out)
        self.shape = capacity.slots, size

    def of(self, layer: int, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of a layer's matrices (slots, outputs, inputs) and biases."""
        begin, out, into = self.matrices[layer]
        end = begin + out * into
        return vector[:, begin:end].view(-1, out, into), vector[:, end : end + out]

    def places(
        self, network: Network, own: NDArray[np.floating], padded: NDArray[np.floating]
    ) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
        """Yield views of a network's weights, and where they are in a slot."""
        last = len(self.matrices) - 1
        for layer, matrix in enumerate(network.matrices(own)):
            begin, out, into = self.matrices[layer if layer < network.layers else last]
            end, rows, columns = begin + out * into, matrix.shape[0], matrix.shape[1] - 1
            yield matrix[:, :-1], padded[begin:end].reshape(out, into)[:rows, :columns]
            yield matrix[:, -1], padded[end : end + rows]


def _whole(count: int) -> int:
    return -(-count // 16) * 16


class Device:
    """The arrays on the device, and what happens to them in a tick."""

    def __init__(
        self,
        sizes: Sizes,
        capacity: Capacity,
        room: int,
        features: NDArray[np.floating],
        device: str,
    ) -> None:
        self._sizes, self._capacity, self._slots = sizes, capacity, capacity.slots
        self.dtype = features.dtype
        self._features = torch.from_numpy(features).to(device)
        self._kind, self._zero_row = self._features.dtype, len(features) - 1
        self._empty = empty = Ticks(  # of a slot that does nothing
            np.full((_TICKS, room), self._zero_row),
            np.full((_TICKS, room), STRUCTURES),
            np.zeros((_TICKS, STRUCTURES)),
            np.zeros((_TICKS, STRUCTURES)),
            np.zeros((_TICKS, len(Number))),
        )
        self._host = {
            name: np.stack([array] * self._slots, axis=1) for name, array in vars(empty).items()
        }
        self._plan = {name: torch.from_numpy(a).to(device) for name, a in self._host.items()}
        self._vectors = {
            name: torch.zeros(sizes.shape, dtype=self._kind, device=device) for name in VECTORS
        }
        self._sums = torch.zeros((self._slots, 3), dtype=torch.float64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(STRUCTURES, device=device)[None, :, None]
        self._columns = torch.arange(room, device=device)[None, :, None]
        self._rows = torch.arange(sizes.nodes, device=device)[None, None, :]
        self._advance = _graph(self._tick) if device.startswith("cuda") else self._tick

    def run(
        self, requests: list[Ticks], vectors: dict[str, NDArray[np.floating]]
    ) -> NDArray[np.float64]:
        """Go through the ticks of each slot, changing its vectors; return its three sums.

        Absolute errors and losses on the train samples, absolute errors on the others.
        """
        for name, vector in vectors.items():
            self._vectors[name].copy_(torch.from_numpy(vector))
        self._sums.zero_()
        longest = max(map(len, requests))
        slots = [*requests, *[self._empty] * (self._slots - len(requests))]
        for start in range(0, longest, _TICKS):
            for name, host in self._host.items():
                for slot, ticks in enumerate(slots):
                    mine = getattr(ticks, name)[start : start + _TICKS]
                    host[: len(mine), slot] = mine
                    host[len(mine) :, slot] = getattr(self._empty, name)[len(mine) :]
                self._plan[name].copy_(torch.from_numpy(host))
            self._at.zero_()
            for _ in range(min(_TICKS, longest - start)):
                self._advance()
        for name, vector in vectors.items():
            vector[:] = self._vectors[name].cpu().numpy()
        found: NDArray[np.float64] = self._sums.cpu().numpy()
        return found

    def _tick(self) -> None:
        """Take each slot's next structures forward and back, and step where its batch ends."""
        plan = {name: buffer.index_select(0, self._at)[0] for name, buffer in self._plan.items()}
        self._at += 1
        numbers = plan["numbers"]
        judged = (numbers[:, Number.JUDGED] > 0)[:, None]
        weights = torch.where(judged, self._vectors["average"], self._vectors["weights"])
        inputs = self._features[plan["atoms"]]
        values, slopes = self._forward(weights, inputs, numbers)
        energies = self._energies(weights, values[-1])
        slope = self._compare(energies, plan)
        self._backward(weights, values, slopes, slope, numbers)
        self._step(numbers)

    def _forward(
        self, weights: Tensor, inputs: Tensor, numbers: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return what goes into each layer, and the derivatives of hidden layers' activations."""
        values, slopes = [inputs], []
        for layer in range(self._sizes.layers):
            matrix, bias = self._sizes.of(layer, weights)
            summed = torch.baddbmm(bias[:, None, :], values[-1], matrix.transpose(1, 2))
            value, slope = self._activate(summed, numbers[:, Number.ACTIVATION])
            if self._capacity.dropout:
                kept = self._kept(layer, numbers)
                value, slope = value * kept, slope * kept
            if layer:  # a network with fewer layers passes on what it has
                there = _active(layer, numbers)
                value = torch.where(there, value, values[-1])
                slope = torch.where(there, slope, torch.zeros_like(slope))
            values.append(value)
            slopes.append(slope)
        return values, slopes

    def _energies(self, weights: Tensor, values: Tensor) -> Tensor:
        matrix, bias = self._sizes.of(self._sizes.layers, weights)
        return (torch.bmm(values, matrix.transpose(1, 2)).squeeze(2) + bias).double()

    def _activate(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        names = list(ACTIVATIONS)
        first, *others = self._capacity.activations
        value, slope = ACTIVATIONS[first](x)
        for name in others:
            own = (which == names.index(name))[:, None, None]
            other = ACTIVATIONS[name](x)
            value, slope = torch.where(own, other[0], value), torch.where(own, other[1], slope)
        return value, slope

    def _kept(self, layer: int, numbers: Tensor) -> Tensor:
        """Return 0 for nodes to drop and 1 / (1 - rate) for others, drawn as on the CPU."""
        first, key = (numbers[:, n].long()[:, None, None] for n in (Number.FIRST, Number.KEY))
        rate = numbers[:, Number.DROPOUT][:, None, None]
        drawn = _mix(_mix((first + self._columns) & _BITS, self._rows), (key + layer) & _BITS)
        kept = (1 / (1 - rate)).to(self._kind)
        return torch.where(drawn < (rate * 2.0**32).long(), torch.zeros_like(kept), kept)

    def _compare(self, energies: Tensor, plan: dict[str, Tensor]) -> Tensor:
        """Add up errors; return the derivative of the loss by each atom's energy."""
        owners, numbers = plan["owners"], plan["numbers"]
        mine = owners[:, None, :] == self._places
        sums = energies[:, None, :].masked_fill(~mine, 0.0).sum(2)
        errors = sums - plan["targets"]
        size, sign = errors.abs(), errors.sign()
        kind, delta = numbers[:, Number.LOSS][:, None], numbers[:, Number.DELTA][:, None]
        near = size < delta
        huber = torch.where(near, errors**2 / 2, delta * (size - delta / 2))
        bent = torch.where(near, errors, delta * sign)
        is_mae, is_mse = kind == LOSSES["mae"], kind == LOSSES["mse"]
        loss = torch.where(is_mae, size, torch.where(is_mse, errors**2, huber))
        slope = torch.where(is_mae, sign, torch.where(is_mse, 2 * errors, bent))
        found = torch.stack([size.sum(1), loss.sum(1), size.sum(1)], dim=1)
        which = numbers[:, Number.KIND][:, None]
        trained, measured = which == TRAINED, which == MEASURED
        counted = torch.cat([trained, trained, measured], dim=1)
        self._sums += torch.where(counted, found, torch.zeros_like(found))
        slope = torch.nn.functional.pad(slope * plan["shares"], (0, 1)).to(self._kind)
        return slope.gather(1, owners)

    def _backward(
        self,
        weights: Tensor,
        values: list[Tensor],
        slopes: list[Tensor],
        slope: Tensor,
        numbers: Tensor,
    ) -> None:
        """Add to the gradient."""
        gradient = self._vectors["gradient"]
        matrix, _ = self._sizes.of(self._sizes.layers, weights)
        out, bias = self._sizes.of(self._sizes.layers, gradient)
        out += torch.bmm(slope[:, None, :], values[-1])
        bias += slope.sum(1, keepdim=True)
        back = slope[:, :, None] * matrix
        for layer in range(self._sizes.layers - 1, -1, -1):
            here = back * slopes[layer]
            out, bias = self._sizes.of(layer, gradient)
            out += torch.bmm(here.transpose(1, 2), values[layer])
            bias += here.sum(1)
            if layer:
                matrix, _ = self._sizes.of(layer, weights)
                back = torch.where(_active(layer, numbers), torch.bmm(here, matrix), back)

    def _step(self, numbers: Tensor) -> None:
        """Step by Adam where a batch ends, as `ampflow.potential.kernels.adam` does."""
        names = ("weights", "first", "second", "average", "gradient")
        weights, first, second, average, gradient = (self._vectors[name] for name in names)
        steps = (numbers[:, Number.STEP] > 0)[:, None]
        rate, larger, kept, old = (
            numbers[:, n][:, None].to(self._kind)
            for n in (Number.RATE, Number.LARGER, Number.KEPT, Number.OLD)
        )
        new = (1 - numbers[:, Number.OLD])[:, None].to(self._kind)
        slope = gradient * self._short(gradient, numbers[:, Number.CLIP])
        one = BETA1 * first + (1 - BETA1) * slope
        two = BETA2 * second + (1 - BETA2) * slope * slope
        moved = kept * weights - rate * one / (larger * two.sqrt() + EPSILON)
        mean = old * average + new * moved
        for vector, after in ((weights, moved), (first, one), (second, two), (average, mean)):
            vector.copy_(torch.where(steps, after, vector))
        gradient.copy_(torch.where(steps, torch.zeros_like(gradient), gradient))

    def _short(self, gradient: Tensor, clip: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
        short = (clip / length).masked_fill((clip == 0) | (length <= clip), 1.0)
        return cast(Tensor, short[:, None].to(self._kind))


def _active(layer: int, numbers: Tensor) -> Tensor:
    return (numbers[:, Number.LAYERS] > layer)[:, None, None]


def _graph(tick: Callable[[], None]) -> Callable[[], None]:
    """Record a tick as a CUDA graph, and return what plays it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries make their workspaces at first use
        for _ in range(3):
            tick()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        tick()
    return graph.replay


_BITS = 0xFFFFFFFF


def _mix(bits: Tensor, key: Tensor) -> Tensor:
    """Hash as `ampflow.potential.bits.mix` does."""
    bits = bits ^ key
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        bits = ((bits ^ (bits >> shift)) * factor) & _BITS
    return bits


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.tanh(x)
    return y, 1 - y * y


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    y = x * gate
    return y, gate + y * (1 - gate)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    below = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return x * below, below + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _relu(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(x), (x > 0).to(x.dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "tanh": _tanh,
    "silu": _silu,
    "gelu": _gelu,
    "relu": _relu,
}
