from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampflow.dataset import Dataset
from ampflow.errors import DataError, OptionError
from ampflow.experiment import Training
from ampflow.potential.references import fit_references, make_references


def _of(formulas: list[list[int]], energies: list[float]) -> Dataset:
    numbers = np.array([number for formula in formulas for number in formula])
    offsets = np.concatenate([[0], np.cumsum([len(formula) for formula in formulas])])
    return Dataset(np.zeros((len(numbers), 1)), numbers, offsets, np.array(energies))


# Energies that are a sum over elements are found exactly, whatever the order of the atoms.
@given(st.lists(st.floats(-1000, 1000), min_size=3, max_size=3))
def test_exact_where_energy_is_linear(per_element: list[float]) -> None:
    of = dict(zip([1, 6, 8], per_element, strict=True))
    formulas = [[8, 1, 1], [6, 8, 8], [1, 6, 1, 1, 1], [6, 6], [8, 6]]
    data = _of(formulas, [sum(of[number] for number in formula) for formula in formulas])
    references = fit_references(data)
    assert references.elements.tolist() == [1, 6, 8]
    np.testing.assert_allclose(references.energies, per_element, atol=1e-8)
    np.testing.assert_allclose(references.of(data), data.energies, atol=1e-8)


# Least squares: no other energies have a smaller squared error on the train part.
def test_is_least_squares() -> None:
    data = _of([[1, 1], [1, 6], [6, 6], [1], [6, 6, 1]], [1.0, -2.0, 3.0, 0.5, -4.0])
    references = fit_references(data)
    best = np.sum((references.of(data) - data.energies) ** 2)
    for change in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]):
        other = replace(references, energies=references.energies + change)
        assert np.sum((other.of(data) - data.energies) ** 2) > best


# Water alone does not tell H from O: the mean energy is reproduced, with energies no larger.
def test_rank_deficient_composition_stays_sensible() -> None:
    data = _of([[8, 1, 1]] * 4, [-600.0, -601.0, -599.0, -600.0])
    references = fit_references(data)
    np.testing.assert_allclose(references.of(data), -600.0)
    assert np.all(references.energies < 0)
    assert np.all(references.energies > -600)


# An element that the train part has not is an error that names it and the structure.
def test_unseen_element_is_named() -> None:
    references = fit_references(_of([[1, 1], [8]], [-1.0, -2.0]))
    with pytest.raises(DataError, match=r"structure 1: .* Fe"):
        references.of(_of([[1], [8, 26]], [0.0, 0.0]))


# Nothing to fit to is an error, not an empty fit.
def test_no_structures() -> None:
    with pytest.raises(DataError, match="no structures"):
        fit_references(_of([], []))


# Ridge: weak pulls leave least squares, strong ones give every atom the mean energy; a composition
# that does not tell elements apart keeps its energy under a weak one.
def test_ridge() -> None:
    data = _of([[1, 1], [1, 6], [6, 6], [1], [6, 6, 1]], [1.0, -2.0, 3.0, 0.5, -4.0])
    plain = fit_references(data)
    np.testing.assert_allclose(fit_references(data, 1e-9).energies, plain.energies, rtol=1e-6)
    mean = data.energies.sum() / len(data.numbers)
    np.testing.assert_allclose(fit_references(data, 1e9).energies, mean, rtol=1e-6)
    water = _of([[8, 1, 1]] * 4, [-600.0, -601.0, -599.0, -600.0])
    found = fit_references(water, 1e-3)
    np.testing.assert_allclose(found.of(water), -600.0)
    np.testing.assert_allclose(found.energies, -200.0)


# Energies that are given are taken as they are; none are zero; one that is missing is named.
def test_given_and_none() -> None:
    data = _of([[8, 1, 1], [1, 1]], [-600.0, -32.0])
    given = Training(references="given", reference_energies={"H": -16.0, "O": -560.0, "Cu": 1.0})
    found = make_references(data, given)
    assert found.elements.tolist() == [1, 8]
    np.testing.assert_array_equal(found.energies, [-16.0, -560.0])
    np.testing.assert_array_equal(make_references(data, Training(references="none")).energies, 0)
    fitted = make_references(data, Training(ridge=0.1)).energies
    np.testing.assert_array_equal(fitted, fit_references(data, 0.1).energies)
    with pytest.raises(OptionError, match="none for O"):
        make_references(data, Training(references="given", reference_energies={"H": -16.0}))
    with pytest.raises(ValueError, match="no such element: Xx"):
        Training(reference_energies={"Xx": 1.0})
