from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ampflow.experiment import Training
from ampflow.potential.schedules import batch_ends, is_over, learning_rate


def _rates(options: Training, errors: list[float]) -> list[float]:
    return [learning_rate(options, errors[:done]) for done in range(len(errors))]


# Step, cosine and one-cycle (an epoch for a step) are torch's schedulers of the same name.
@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle"])
def test_as_torch_has_them(schedule: str) -> None:
    options = Training(schedule=schedule, lr=0.1, gamma=0.5, step_size=3, epochs=20)
    adam = torch.optim.Adam([torch.zeros(1)], lr=0.1)
    scheduler = {
        "step": lambda: torch.optim.lr_scheduler.StepLR(adam, 3, 0.5),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(adam, 20),
        "one-cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            adam, 0.1, total_steps=20, cycle_momentum=False
        ),
    }[schedule]()
    expected = []
    for _ in range(20):
        expected.append(scheduler.get_last_lr()[0])
        adam.step()
        if len(expected) < 20:
            scheduler.step()
    np.testing.assert_allclose(_rates(options, [1.0] * 20), expected, rtol=1e-12)


# A plateau is `step_size` epochs without a better error; the count begins anew after a decay.
def test_plateau() -> None:
    options = Training(schedule="plateau", lr=1.0, gamma=0.5, step_size=2)
    errors = [5.0, 4.0, 4.0, 4.5, 4.1, 4.2, 3.9, 4.0, 3.0]
    assert _rates(options, errors) == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]


# A training is over at its last epoch, or `patience` epochs after the first best one.
def test_is_over() -> None:
    assert not is_over(Training(epochs=3), [1.0, 2.0])
    assert is_over(Training(epochs=3), [1.0, 2.0, 3.0])
    patient = Training(epochs=9, patience=2)
    assert not is_over(patient, [])
    assert not is_over(patient, [1.0, 2.0])
    assert is_over(patient, [1.0, 1.0, 1.0])
    assert not is_over(patient, [3.0, 2.0, 3.0])


# Batches are in order and complete; by atoms none is larger than asked for unless it is one
# structure, and the next structure would not have fitted.
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 50))
def test_batches(sizes: list[int], size: int) -> None:
    by_structure = batch_ends(np.array(sizes), Training(batch_size=size))
    assert np.diff([0, *by_structure]).max() <= size
    assert by_structure[-1] == len(sizes)
    assert len(by_structure) == -(-len(sizes) // size)
    ends = batch_ends(np.array(sizes), Training(batch_size=size, batch_unit="atoms"))
    assert ends[-1] == len(sizes)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        atoms = sum(sizes[start:end])
        assert end == start + 1 or atoms <= size
        assert end == len(sizes) or atoms + sizes[end] > size
