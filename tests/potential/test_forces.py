"""Forces and stresses in the loss: kernels beside torch and finite differences."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ampflow.dataset import Derivatives
from ampflow.experiment import Training
from ampflow.potential import activations, torch_engine
from ampflow.potential.cpu_engine import CpuEngine
from ampflow.potential.engine import ForceSamples, Samples
from ampflow.potential.network import Network
from ampflow.potential.schedules import batch_ends
from ampflow.potential.state import State
from ampflow.potential.torch_engine import TorchEngine


@numba.njit
def bend(kind, values, curves, width):
    activations.bend(kind, values, curves, 0, width)


def _random(
    sizes: list[int], features: int, precision: str = "float64", strained: bool = False
) -> Samples:
    """Structures whose atoms depend on themselves and some others, at random; and on strain."""
    random, extra = np.random.default_rng(len(sizes)), 2 * strained
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    moved = [
        np.concatenate([np.flatnonzero(random.random(n) < 0.3), n + np.arange(extra)])
        for n in sizes
        for _ in range(n)
    ]
    starts = np.cumsum([0, *map(len, moved)])
    values = random.normal(size=(starts[-1], 3, features)).astype(np.float32)
    forces = ForceSamples(
        random.normal(size=(offsets[-1] + extra * len(sizes), 3)),
        Derivatives(starts, np.concatenate(moved), values),
        random.uniform(0.5, 2, features),
        strained,
    )
    rows = random.normal(size=(offsets[-1], features)).astype(precision)
    return Samples(rows, offsets, random.normal(size=len(sizes)), 2.0, forces)


def _weights(network: Network, precision: str = "float64") -> NDArray[np.floating]:
    return np.random.default_rng(7).normal(0, 0.4, network.size).astype(precision)


def _options(**changes: object) -> Training:
    return Training(**{"precision": "float64", "force_weight": 0.7, **changes})


# Loss and gradient are those of torch's double automatic differentiation, for every activation
# and loss, shapes that are no multiple of a vector, one structure and several blocks of them, with
# forces, stresses, or both.
@pytest.mark.parametrize("weights_of", [(0.7, 0.0), (0.7, 1.3), (0.0, 1.3)])
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "relu"])
@pytest.mark.parametrize(
    ("features", "layers", "nodes", "sizes", "loss"),
    [
        (1, 1, 1, [1], "mse"),
        (5, 2, 3, [2, 7, 1], "mae"),
        (9, 3, 8, [11, 24, 200, 240, 5], "huber"),
        (8, 4, 5, [3, 30], "mse"),
    ],
)
def test_gradient_is_autograds(
    activation: str,
    features: int,
    layers: int,
    nodes: int,
    sizes: list[int],
    loss: str,
    weights_of: tuple[float, float],
) -> None:
    network, (force, stress) = Network(features, layers, nodes, activation), weights_of
    samples, weights = _random(sizes, features, strained=stress > 0), _weights(network)
    options = _options(loss=loss, huber_delta=2.0, force_weight=force, stress_weight=stress)
    ours = CpuEngine(network, samples, samples, options)
    theirs = TorchEngine(network, samples, samples, options, "cpu")
    for found, expected in zip(
        ours.gradient(weights, key=1), theirs.gradient(weights, key=1), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours.errors(weights), theirs.errors(weights), rtol=1e-10)


# The gradient is the loss's derivative by finite differences, with dropout and stresses too.
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("stress_weight", [0.0, 1.3])
def test_gradient_is_finite_differences(rate: float, stress_weight: float) -> None:
    network = Network(6, 2, 7, "silu")
    samples, weights = _random([3, 20, 8], 6, strained=stress_weight > 0), _weights(network)
    options = _options(loss="mse", dropout_rate=rate, stress_weight=stress_weight)
    engine = CpuEngine(network, samples, samples, options)
    gradient = engine.gradient(weights, key=3)[2]
    direction = np.random.default_rng(0).normal(size=network.size)
    above, below = (engine.gradient(weights + step * direction, key=3)[1] for step in (1e-6, -1e-6))
    assert (above - below) / 2e-6 == pytest.approx(gradient @ direction, rel=1e-6)


# Both engines make the same training, in float32 and float64.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float64", 1e-9)])
def test_engines_agree(precision: str, tolerance: float) -> None:
    network, options = Network(6, 2, 10, "tanh"), _options(precision=precision, batch_size=2)
    samples = _random([3, 9, 30, 1, 14], 6, precision)
    order = np.array([3, 1, 0, 4, 2])
    ends = batch_ends(np.diff(samples.offsets)[order], options)
    found = []
    for engine in (
        CpuEngine(network, samples, samples, options),
        TorchEngine(network, samples, samples, options, "cpu"),
    ):
        state = State.begin(_weights(network, precision), options)
        error = engine.epoch(state, order, ends, 1e-3, key=1)
        found.append([error, *engine.errors(state.weights), *state.weights])
    np.testing.assert_allclose(*found, rtol=tolerance, atol=tolerance)


# Without a weight the forces change nothing; a structure's error does not depend on the others.
def test_weight_of_zero_is_energies_alone() -> None:
    network, samples = Network(6, 2, 7, "silu"), _random([3, 20, 8], 6)
    bare, weights = replace(samples, forces=None), _weights(Network(6, 2, 7, "silu"))
    with_forces = CpuEngine(network, samples, samples, _options(force_weight=1e-300))
    alone = CpuEngine(network, bare, bare, _options(force_weight=0.0))
    for one, other in zip(
        with_forces.gradient(weights, key=1), alone.gradient(weights, key=1), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert np.isnan(alone.errors(weights)[1])


# Second derivatives of the activations are right to rounding.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 5e-15)])
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu"])
def test_second_derivatives(activation: str, precision: str, tolerance: float) -> None:
    x = np.linspace(-9, 9, 800).astype(precision)[None]
    curves = np.empty_like(x)
    bend(activations.ACTIVATIONS[activation], x, curves, x.shape[1])
    leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    value = torch_engine._FUNCTIONS[activation](leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(slope.sum(), leaf)
    np.testing.assert_allclose(curves, expected.numpy(), atol=tolerance)
