from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ampflow.experiment import Training
from ampflow.potential import activations, kernels, torch_engine
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import Samples
from ampflow.potential.kernels import Adam
from ampflow.potential.network import Network
from ampflow.potential.state import State
from ampflow.potential.torch_engine import TorchEngine, atomic_energies


@numba.njit
def activate(kind, values, slopes, width):
    activations.activate(kind, values, slopes, width)


@numba.njit
def drop_out(rate, key, atom, values, slopes, width):
    activations.drop_out(rate, key, atom, values, slopes, width)


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
    """Return the engine's mean error and the gradient it steps with, in one batch."""
    options = Training(activation=network.activation, precision="float64", batch_size=1000)
    engine = CpuEngine(network, samples, samples, options)
    moments = np.zeros_like(weights), np.zeros_like(weights)
    vectors = Adam(weights.copy(), np.zeros_like(weights), *moments)
    order = np.arange(len(samples))
    total = kernels.epoch(
        engine._shape, engine._train, order, 1000, vectors, 0, 1e-9, rate, 5, engine._block
    )
    return total / len(samples), vectors.gradient


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
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-4), ("float64", 1e-10)])
def test_engines_agree(precision: str, tolerance: float) -> None:
    network = Network(6, 2, 10, "tanh")
    train = _samples([3, 9, 30, 1, 14, 260, 7], 6, precision)
    validation = _samples([5, 8], 6, precision)
    options = Training(batch_size=3, precision=precision)
    states, errors = [], []
    for engine in (
        CpuEngine(network, train, validation, options),
        TorchEngine(network, train, validation, options, "cpu"),
    ):
        state = State.begin(_weights(network, precision))
        order = np.array([3, 1, 0, 6, 5, 4, 2])
        errors.append([engine.epoch(state, order, 1e-3, key=1), engine.error(state.weights)])
        states.append(state)
    np.testing.assert_allclose(*errors, rtol=tolerance)
    np.testing.assert_allclose(states[0].weights, states[1].weights, atol=tolerance)
    np.testing.assert_allclose(states[0].second, states[1].second, rtol=1e-2, atol=tolerance)


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
        alone.append(CpuEngine(network, one, one, options).error(weights))
    together = CpuEngine(network, samples, samples, options).error(weights)
    assert together == pytest.approx(np.mean(alone), rel=1e-14)


# What is not a number in the weights is seen in the error, whatever the activation.
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
def test_nan_is_not_hidden(activation: str) -> None:
    network = Network(3, 2, 4, activation)
    samples = _samples([2, 2], 3, "float32")
    weights = _weights(network, "float32")
    weights[0] = np.nan
    options = Training(activation=activation)
    assert np.isnan(CpuEngine(network, samples, samples, options).error(weights))
