from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ampflow.experiment import Training
from ampflow.potential import activations, torch_engine
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import Samples
from ampflow.potential.network import Network
from ampflow.potential.schedules import batch_ends
from ampflow.potential.state import State
from ampflow.potential.torch_engine import TorchEngine, atomic_energies


@numba.njit
def activate(kind, values, slopes, width):
    activations.activate(kind, values, slopes, 0, width)


@numba.njit
def drop_out(rate, key, atom, values, slopes, width):
    activations.drop_out(rate, key, atom, values, slopes, 0, width)


def _samples(sizes: list[int], features: int, precision: str = "float64") -> Samples:
    random = np.random.default_rng(len(sizes))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = random.normal(size=(offsets[-1], features)).astype(precision)
    return Samples(rows, offsets, random.normal(size=len(sizes)))


def _weights(network: Network, precision: str = "float64") -> NDArray[np.floating]:
    return np.random.default_rng(7).normal(0, 0.4, network.size).astype(precision)


def _gradient(
    network: Network, samples: Samples, weights: NDArray[np.floating], rate: float = 0.0
) -> tuple[float, NDArray[np.floating]]:
    """Return the mean error and its gradient, from the engine."""
    options = Training(activation=network.activation, precision="float64", dropout_rate=rate)
    engine = CpuEngine(network, samples, samples, options)
    _, loss, gradient = engine.gradient(weights, key=5)
    return loss, gradient


# The gradient is that of torch's autograd, for every activation and shape: one node, widths and
# features that are no multiple of a vector or tile, structures that fill several blocks or more
# than a block's usual length.
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
@pytest.mark.parametrize(
    ("features", "layers", "nodes", "sizes"),
    [
        (1, 1, 1, [1]),
        (5, 2, 3, [2, 7, 1]),
        (32, 3, 20, [73] * 9),
        (3, 4, 8, [300, 1, 5]),
        (7, 2, 21, [11, 24, 48, 100, 240]),
    ],
)
def test_gradient_is_autograds(
    activation: str, features: int, layers: int, nodes: int, sizes: list[int]
) -> None:
    network = Network(features, layers, nodes, activation)
    samples, weights = _samples(sizes, features), _weights(network)
    error, gradient = _gradient(network, samples, weights)
    leaf = torch.from_numpy(weights).requires_grad_()
    atoms = atomic_energies(network, leaf, torch.from_numpy(samples.features))
    sums = torch.stack([part.sum() for part in atoms.split(sizes)])
    loss = (sums - torch.from_numpy(samples.targets)).abs().mean()
    (expected,) = torch.autograd.grad(loss, leaf)
    assert error == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-10, atol=1e-12)


# With dropout the gradient is still that of the error made with the same nodes dropped.
def test_gradient_with_dropout() -> None:
    network = Network(4, 2, 5, "tanh")
    samples, weights = _samples([3, 40, 8], 4), _weights(network)
    _, gradient = _gradient(network, samples, weights, rate=0.3)
    direction = np.random.default_rng(0).normal(size=network.size)
    above, below = (
        _gradient(network, samples, weights + step * direction, rate=0.3)[0]
        for step in (1e-6, -1e-6)
    )
    assert (above - below) / 2e-6 == pytest.approx(gradient @ direction, rel=1e-6)


# Dropout drops its share of nodes, others for each row and key, and keeps the mean.
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_drops_its_share(rate: float) -> None:
    def drop(key: int) -> NDArray[np.floating]:
        values, slopes = np.ones((40, 2400), np.float32), np.ones((40, 2400), np.float32)
        drop_out(rate, key, 0, values, slopes, 2400)
        np.testing.assert_array_equal(values, slopes)
        return values

    values = drop(123456789123)
    assert (values == 0).mean() == pytest.approx(rate, abs=0.01)
    assert values.mean() == pytest.approx(1, abs=0.02)
    for other in (np.roll(values, 1, axis=0), np.roll(values, 1, axis=1), drop(123456789124)):
        both = ((values == 0) & (other == 0)).mean()
        assert both == pytest.approx(rate**2, abs=0.01)


# Activations and their derivatives are right to rounding everywhere: of 1, or of x where that is
# larger. What is not a number stays so.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 5e-7), ("float64", 1e-15)])
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
def test_activations(activation: str, precision: str, tolerance: float) -> None:
    x = np.concatenate([np.linspace(-12, 12, 9999), [1e-6, -1e-6, -1e4, 1e4]])
    x = np.concatenate([x, [np.nan] * (-len(x) % 8)]).astype(precision)[None]
    values, slopes = x.copy(), np.empty_like(x)
    activate(activations.ACTIVATIONS[activation], values, slopes, x.shape[1])
    leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    expected = torch_engine._FUNCTIONS[activation](leaf)
    (derivative,) = torch.autograd.grad(expected.sum(), leaf)
    number = np.isfinite(x)
    size = np.maximum(1, np.abs(x[number]))
    assert np.max(np.abs(values - expected.detach().numpy())[number] / size) < tolerance
    assert np.max(np.abs(slopes - derivative.numpy())[number] / size) < 2 * tolerance
    assert np.isnan(values[~number]).all()


# Both engines make the same training of the same options, to rounding.
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "float64"},
        {"precision": "float64", "loss": "mse"},
        {"precision": "float64", "loss": "huber", "huber_delta": 0.5},
        {"precision": "float64", "optimizer": "adamw", "weight_decay": 0.5},
        {"precision": "float64", "clip": 0.3},
        {"precision": "float64", "ema_decay": 0.9},
        {"precision": "float64", "batch_unit": "atoms", "batch_size": 40},
        {"optimizer": "adamw", "clip": 0.1, "ema_decay": 0.5, "loss": "huber"},
    ],
    ids=str,
)
def test_engines_agree(changes: dict[str, object]) -> None:
    options = Training(**{"batch_size": 3, **changes})
    tolerance = 2e-4 if options.precision == "float32" else 1e-10
    network = Network(6, 2, 10, "tanh")
    train = replace(_samples([3, 9, 30, 1, 14, 260, 7], 6, options.precision), unit=2.0)
    validation = _samples([5, 8], 6, options.precision)
    order = np.array([3, 1, 0, 6, 5, 4, 2])
    ends = batch_ends(np.diff(train.offsets)[order], options)
    states, errors = [], []
    for engine in (
        CpuEngine(network, train, validation, options),
        TorchEngine(network, train, validation, options, "cpu"),
    ):
        state = State.begin(_weights(network, options.precision), options)
        error, loss, gradient = engine.gradient(state.weights, key=1)
        met = [engine.epoch(state, order, ends, 1e-3, key=1) for _ in range(2)]
        errors.append([error, loss, *met, engine.errors(state.judged)[0]])
        states.append((state, gradient))
    np.testing.assert_allclose(*errors, rtol=tolerance)
    np.testing.assert_allclose(states[0][1], states[1][1], atol=10 * tolerance)
    ours, theirs = states[0][0], states[1][0]
    assert ours.steps == theirs.steps == 2 * len(ends)
    assert not np.array_equal(ours.weights, _weights(network, options.precision))
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=tolerance)
    np.testing.assert_allclose(ours.judged, theirs.judged, atol=tolerance)
    np.testing.assert_allclose(
        ours.memory["second"], theirs.memory["second"], rtol=1e-2, atol=tolerance
    )


# Clipping shortens the gradient and keeps its direction: Adam's first moment shows it.
@pytest.mark.parametrize(("clip", "length"), [(0.05, 0.05), (1e6, None)])
def test_clip(clip: float, length: float | None) -> None:
    network, options = Network(6, 1, 4, "tanh"), Training(precision="float64", clip=clip)
    samples, weights = _samples([3, 9, 4], 6), _weights(Network(6, 1, 4, "tanh"))
    engine = CpuEngine(network, samples, samples, options)
    gradient = engine.gradient(weights, key=1)[2]
    state = State.begin(weights.copy(), options)
    engine.epoch(state, np.arange(3), np.array([3]), 1e-3, key=1)
    found = state.memory["first"] / 0.1
    size = np.linalg.norm(gradient)
    np.testing.assert_allclose(found, gradient * min(1, (length or size) / size), rtol=1e-8)


# AdamW without a gradient leaves the weights times 1 - lr decay, once a step.
def test_weight_decay() -> None:
    network = Network(2, 1, 3, "relu")
    options = Training(optimizer="adamw", weight_decay=0.5, precision="float64")
    samples = Samples(np.zeros((2, 2)), np.array([0, 1, 2]), np.zeros(2))
    engine = CpuEngine(network, samples, samples, options)
    weights = np.linspace(-1, 1, network.size)
    weights[2:9:3] = weights[-1] = 0  # no biases and inputs of 0: the energy is right as it is
    state = State.begin(weights.copy(), options)
    engine.epoch(state, np.arange(2), np.array([1, 2]), 0.1, key=1)
    np.testing.assert_allclose(state.weights, weights * 0.95**2, rtol=1e-12)


# The running average of the weights begins at the first ones and follows with the decay asked for.
def test_average() -> None:
    network, options = Network(6, 1, 4, "tanh"), Training(precision="float64", ema_decay=0.3)
    samples, weights = _samples([3, 9, 4], 6), _weights(Network(6, 1, 4, "tanh"))
    engine = CpuEngine(network, samples, samples, options)
    state, expected = State.begin(weights.copy(), options), weights.copy()
    for step in range(1, 8):
        engine.epoch(state, np.arange(3), np.array([3]), 1e-2, key=1)
        old = min(0.3, step / (9 + step))
        expected = old * expected + (1 - old) * state.weights
    np.testing.assert_allclose(state.judged, expected, rtol=1e-12)


# A structure's energy does not depend on the others in its block, to the last bit.
def test_structures_are_independent() -> None:
    network = Network(6, 2, 10, "tanh")
    sizes = [3, 9, 30, 1, 14, 260, 7]
    samples = _samples(sizes, 6, "float32")
    weights = _weights(network, "float32")
    options = Training()
    alone = []
    for i in range(len(sizes)):
        begin, end = samples.offsets[i : i + 2]
        one = Samples(
            samples.features[begin:end], np.array([0, end - begin]), samples.targets[i:][:1]
        )
        alone.append(CpuEngine(network, one, one, options).errors(weights)[0])
    together = CpuEngine(network, samples, samples, options).errors(weights)[0]
    assert together == pytest.approx(np.mean(alone), rel=1e-14)


# What is not a number in the weights is seen in the error, whatever the activation.
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
def test_nan_is_not_hidden(activation: str) -> None:
    network = Network(3, 2, 4, activation)
    samples = _samples([2, 2], 3, "float32")
    weights = _weights(network, "float32")
    weights[0] = np.nan
    options = Training(activation=activation)
    assert np.isnan(CpuEngine(network, samples, samples, options).errors(weights)[0])
