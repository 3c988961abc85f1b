from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ampflow.dataset import Dataset
from ampflow.potential.scaling import fit_scaler

Make = Callable[..., Dataset]


# The train part's atoms have mean 0 and spread 1 in each column; a constant column becomes 0.
def test_standardises(make: Make) -> None:
    data = make()
    scaled = fit_scaler(data, np.ones(len(data))).features(data.fingerprints)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0)[[0, 1, 2, 4]], 1)
    np.testing.assert_array_equal(scaled[:, 3], 0)


# A column that is constant but for rounding is constant: noise is not blown up to size 1.
def test_rounding_is_not_a_signal(make: Make) -> None:
    data = make()
    data.fingerprints[:, 3] = 7e5 * (1 + 1e-15 * np.arange(len(data.numbers)) % 2)
    assert fit_scaler(data, np.ones(len(data))).scale[3] == 1


# The unit of energy is the residuals' spread per atom, and 1 eV where there is none.
def test_unit_of_energy(make: Make) -> None:
    data = make()
    residuals = np.random.default_rng(0).normal(size=len(data))
    expected = (residuals / data.atoms_per_structure).std()
    assert fit_scaler(data, residuals).energy == expected
    assert fit_scaler(data, np.zeros(len(data))).energy == 1
