from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from ampflow.dataset import Dataset
from ampflow.experiment import Training
from ampflow.potential.engine import Engines, Samples
from ampflow.potential.stack import Capacity, Stack
from ampflow.potential.ticks import cut
from ampflow.potential.training import Diverged, Epoch, Trained, train

Make = Callable[..., Dataset]

OPTIONS = Training(num_layers=2, num_nodes=6, epochs=6, batch_size=7, dropout_rate=0.1)
CAPACITY = Capacity(4, 3, 10, ("silu", "tanh", "gelu", "relu"), dropout=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on the CPU gives the ends of each thread's share to other instructions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts(make: Make) -> tuple[Dataset, Dataset]:
    return make(40, seed=1), make(12, seed=2)


def on_torch() -> Engines:
    """A new stack, as on a GPU but for the device."""
    stack = Stack(CAPACITY, "cpu")

    def member(network: Any, train: Any, validation: Any, options: Training) -> Any:
        there = options.model_copy(update={"device": "cuda"})
        return stack.member(network, train, validation, there)

    return member


def on_cpu() -> Engines:
    return Stack(CAPACITY).member


# A structure that a tick has no room for is an error, and no endless loop.
def test_too_large_for_a_tick() -> None:
    samples = Samples(np.zeros((40, 1)), np.array([0, 8, 40]), np.zeros(2))
    with pytest.raises(ValueError, match="more than the 16 atoms"):
        cut(samples, np.arange(2), np.array([2]), 16, (0, 40))


def same(one: Trained, other: Trained) -> None:
    np.testing.assert_array_equal(one.fit.weights, other.fit.weights)
    assert [replace(e, seconds=0) for e in one.history] == [
        replace(e, seconds=0) for e in other.history
    ]


CHANGES: list[dict[str, object]] = [
    {},
    {"num_layers": 1, "num_nodes": 10, "activation": "gelu", "loss": "huber"},
    {"num_layers": 3, "optimizer": "adamw", "clip": 0.1, "ema_decay": 0.9, "batch_size": 40},
    {"activation": "relu", "loss": "mse", "batch_unit": "atoms", "batch_size": 20},
    {"activation": "tanh", "optimizer": "lbfgs", "loss": "huber", "dropout_rate": 0.0},
]


# A stack on torch makes the trainings of the compiled engine, to rounding, dropout included.
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_agrees_with_the_engine(parts: tuple[Dataset, Dataset], changes: dict[str, Any]) -> None:
    options = OPTIONS.model_copy(update={"precision": "float64", "lr": 1e-3, **changes})
    one, other = train(*parts, options, 3), train(*parts, options, 3, engines=on_torch())
    found, expected = ([e.validation_mae for e in t.history] for t in (other, one))
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(other.fit.weights, one.fit.weights, atol=1e-7)
    assert not np.allclose(one.fit.weights, train(*parts, options, 4).fit.weights, atol=1e-3)


# A training has the same bits alone and beside others that join, leave early, diverge, and differ
# in every option; on the CPU also the bits of a training that knows of no stack.
@pytest.mark.parametrize("make_engines", [on_cpu, on_torch])
@pytest.mark.parametrize("others", [1, 5])
def test_independent_of_others(
    parts: tuple[Dataset, Dataset], make_engines: Callable[[], Engines], others: int
) -> None:
    alone = train(*parts, OPTIONS, 0, engines=make_engines())
    if make_engines is on_cpu:
        same(alone, train(*parts, OPTIONS, 0))
    engines, over = make_engines(), Event()

    def crowd(first: int) -> int:
        trained = 0
        while not over.is_set():
            changes = CHANGES[(first + trained) % len(CHANGES)]
            lr = 1e30 if trained % 3 == 2 else 1e-2
            options = OPTIONS.model_copy(update={**changes, "lr": lr, "epochs": 1 + trained % 4})
            with suppress(Diverged):
                train(*parts, options, trained, engines=engines)
            trained += 1
        return trained

    with ThreadPoolExecutor(others) as threads:
        company = [threads.submit(crowd, number) for number in range(others)]
        try:
            found = [train(*parts, OPTIONS, 0, engines=engines) for _ in range(3)]
        finally:
            over.set()
    assert all(future.result() for future in company)
    for trained in found:
        same(alone, trained)


# A checkpoint written in one stack goes on in another one, among others, bit for bit.
@pytest.mark.parametrize("make_engines", [on_cpu, on_torch])
def test_resumes_in_another_stack(
    parts: tuple[Dataset, Dataset], make_engines: Callable[[], Engines], tmp_path: Path
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise InterruptedError

    options = OPTIONS.model_copy(update={"ema_decay": 0.5})
    file = tmp_path / "checkpoint"
    with pytest.raises(InterruptedError):
        train(*parts, options, 0, engines=make_engines(), checkpoint=file, on_epoch=stop)
    engines = make_engines()
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(train, *parts, OPTIONS, 1, engines=engines)
        resumed = train(*parts, options, 0, engines=engines, checkpoint=file)
        other.result()
    same(resumed, train(*parts, options, 0, engines=make_engines()))


# What a stack cannot hold trains beside it: here a network larger than its capacity.
def test_too_large(parts: tuple[Dataset, Dataset]) -> None:
    options = OPTIONS.model_copy(update={"num_nodes": 11})
    same(train(*parts, options, 0, engines=Stack(CAPACITY).member), train(*parts, options, 0))
    network = replace(train(*parts, options, 0).fit.network, nodes=11)
    assert not CAPACITY.holds(network, options)
    small = replace(network, nodes=CAPACITY.nodes)
    assert CAPACITY.holds(small, options)
    assert not CAPACITY.holds(replace(small, elements=(1, 8)), options)  # networks of elements


# What goes wrong in a round is raised in every thread that waits for it, and the next one works.
def test_error_of_a_round(parts: tuple[Dataset, Dataset], monkeypatch: Any) -> None:
    from ampflow.potential import torch_ticks

    def fail(*_: object) -> None:
        raise MemoryError

    engines = on_torch()
    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setattr(torch_ticks.Device, "run", fail)
        both = [threads.submit(train, *parts, OPTIONS, n, engines=engines) for n in range(2)]
        assert all(isinstance(future.exception(), MemoryError) for future in both)
    assert len(train(*parts, OPTIONS, 0, engines=engines).history) == OPTIONS.epochs
