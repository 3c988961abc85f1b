"""Time of an epoch: the compiled engine beside torch, in one run, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/training.py
    OMP_NUM_THREADS=1 python benchmarks/training.py --stack 8
    python benchmarks/training.py --stack 64 --device cuda

With `--stack` that many trainings of different networks, rates and batches are made one after the
other, and then at once in a stack: wall time of all epochs, by turns, and the ratio of the medians.

300 structures of 10 to 136 atoms, 21,903 in all, 32 features; a tenth more for validation. Each
row is measured in turns, a turn an epoch of every engine, so that all meet the same weather on
the machine. Printed: medians of wall time and of this process's own time on the processor (which
a busy machine changes less), in milliseconds, validation included.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from ampflow.experiment import Training
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import Engine, Samples
from ampflow.potential.network import Network
from ampflow.potential.schedules import batch_ends
from ampflow.potential.stack import Capacity, Stack
from ampflow.potential.state import State
from ampflow.potential.torch_engine import TorchEngine
from ampflow.potential.training import make_engine

FEATURES, STRUCTURES, ATOMS = 32, 300, 21_903


@dataclass
class Timed:
    """Something to call in turns with others, and how long each call took."""

    name: str
    call: Callable[[], object]
    wall: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        wall, own = time.perf_counter(), time.process_time()
        self.call()
        self.wall.append(time.perf_counter() - wall)
        self.own.append(time.process_time() - own)

    def __str__(self) -> str:
        wall, own = 1e3 * np.median(self.wall), 1e3 * np.median(self.own)
        return f"{self.name:44s}{wall:9.2f}{own:9.2f}"


def made_for(options: Training) -> Network:
    return Network.of(options, FEATURES, np.array([1]))


def samples(structures: int, atoms: int, precision: str) -> Samples:
    random = np.random.default_rng(structures)
    sizes = np.linspace(10, 136, structures).round().astype(int)
    sizes[: atoms - sizes.sum()] += 1
    offsets = np.concatenate([[0], np.cumsum(random.permutation(sizes))])
    features = random.normal(size=(offsets[-1], FEATURES)).astype(precision)
    return Samples(features, offsets, random.normal(size=structures))


def epochs(engine: Engine, network: Network, options: Training) -> Callable[[], object]:
    state = State.begin(network.initial(0).astype(options.precision), options)
    order = np.random.default_rng(0).permutation(STRUCTURES)
    ends = batch_ends(np.zeros(STRUCTURES, np.int64), options)

    def one() -> None:
        engine.epoch(state, order, ends, 1e-3, key=1)
        engine.errors(state.judged)

    return one


def full_batch(network: Network, train: Samples, precision: str) -> Callable[[], object]:
    """The plainest torch there is: one step an epoch, over all atoms, with torch's own Adam."""
    kind = getattr(torch, precision)
    layers: list[torch.nn.Module] = []
    for outputs, inputs in network.shapes[:-1]:
        layers += [torch.nn.Linear(inputs - 1, outputs), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(network.nodes, 1)).to(kind)
    adam = torch.optim.Adam(model.parameters())
    features, targets = torch.from_numpy(train.features), torch.from_numpy(train.targets)
    owner = torch.from_numpy(np.repeat(np.arange(len(train)), np.diff(train.offsets)))

    def one() -> None:
        adam.zero_grad()
        sums = torch.zeros(len(train), dtype=kind).index_add(0, owner, model(features)[:, 0])
        (sums - targets).abs().mean().backward()
        adam.step()

    return one


def compare(options: Training, turns: int) -> None:
    network = made_for(options)
    train = samples(STRUCTURES, ATOMS, options.precision)
    validation = samples(STRUCTURES // 10, ATOMS // 10, options.precision)
    parts = (network, train, validation, options)
    rivals = [
        Timed("ampflow", epochs(CpuEngine(*parts), network, options)),
        Timed("torch, same batches", epochs(TorchEngine(*parts, "cpu"), network, options)),
        Timed("torch, one batch, no validation", full_batch(network, train, options.precision)),
    ]
    for timed in rivals:
        timed.call()  # compiles
    for _ in range(turns):
        for timed in rivals:
            timed()
    shape = f"{options.num_layers} x {options.num_nodes} {options.activation}"
    print(
        f"\n{shape}, batch {options.batch_size}, {options.precision}, dropout "
        f"{options.dropout_rate:g}"
    )
    for timed in rivals:
        print(f"  {timed}   {np.median(timed.own) / np.median(rivals[0].own):5.1f} x")


def stacked(slots: int, device: str, turns: int, epochs_each: int = 3) -> None:
    """Compare trainings one after the other with the same ones in a stack."""
    precision = "float32"
    parts = samples(STRUCTURES, ATOMS, precision), samples(STRUCTURES // 10, ATOMS // 10, precision)
    several = [
        Training(
            num_layers=2 + n % 4, num_nodes=16 + 8 * (n % 6), batch_size=8 * 2 ** (n % 4),
            device=device,
        )
        for n in range(slots)
    ]  # fmt: skip
    stack = Stack(Capacity(slots, layers=5, nodes=56, activations=("silu",), dropout=False))

    def train(made: AbstractContextManager[Engine], options: Training) -> None:
        with made as engine:
            one = epochs(engine, made_for(options), options)
            for _ in range(epochs_each):
                one()

    def alone() -> None:
        for options in several:
            network = made_for(options)
            train(nullcontext(make_engine(network, *parts, options)), options)

    def together() -> None:
        with ThreadPoolExecutor(slots) as threads:
            done = [
                threads.submit(train, stack.member(made_for(options), *parts, options), options)
                for options in several
            ]
        for future in done:
            future.result()

    rivals = [Timed("one after the other", alone), Timed("in a stack", together)]
    for timed in [*rivals * turns]:
        timed()
    print(f"\n{slots} trainings of {epochs_each} epochs, {device}")
    for timed in rivals:
        del timed.wall[0], timed.own[0]  # compiles
        print(f"  {timed}   {np.median(rivals[0].wall) / np.median(timed.wall):5.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--stack", type=int, default=0, help="trainings at once")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    turns = arguments.turns
    torch.set_num_threads(1)
    if arguments.stack:
        stacked(arguments.stack, arguments.device, turns)
        return
    print(f"{'median ms an epoch':46s}{'wall':>9s}{'own':>9s}")
    wide = {"num_layers": 5, "num_nodes": 20, "activation": "tanh"}
    compare(Training(**wide, batch_size=256), turns)
    compare(Training(**wide, batch_size=32), turns)
    compare(Training(**wide, batch_size=32, dropout_rate=0.1), turns)
    compare(Training(**wide, batch_size=256, precision="float64"), turns)
    compare(Training(num_layers=3, num_nodes=32, activation="silu", batch_size=16), turns)
    compare(Training(num_layers=2, num_nodes=8, activation="tanh", batch_size=8), turns)
    compare(
        Training(num_layers=6, num_nodes=64, activation="tanh", batch_size=32), max(turns // 5, 3)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of this process, torch and all data sets included: {peak:.0f} MB")


if __name__ == "__main__":
    main()
