from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from ampflow.errors import DataError, OptionError
from ampflow.fingerprints import GMP
from ampflow.fingerprints.transformer import GMPTransformer

STRUCTURES = [molecule(name) for name in ("H2O", "CH4", "NH3", "CO", "C2H6", "N2", "O2", "CO2")]


@pytest.fixture
def descriptor() -> GMP:
    return GMP([0.5, 1.5], [0, 1], 4.0)


def test_a_row_a_structure(descriptor: GMP) -> None:
    # The sum or the mean of the atoms' fingerprints, with a name for each column.
    for pool in ("sum", "mean"):
        transformer = GMPTransformer(descriptor, pool)
        table = transformer.fit_transform(STRUCTURES)
        assert table.shape == (8, 4)
        for row, atoms in zip(table, STRUCTURES, strict=True):
            expected = getattr(descriptor.compute(atoms), pool)(axis=0)
            np.testing.assert_array_equal(row, expected)
        names = transformer.get_feature_names_out()
        assert list(names) == [f"{pool}-{name}" for name in descriptor.feature_names]
    assert GMPTransformer(descriptor).transform(iter([])).shape == (0, 4)


def test_what_is_wrong_is_said(descriptor: GMP) -> None:
    # Which structure, and which option.
    with pytest.raises(DataError, match=r"structure 1: .*Og"):
        GMPTransformer(descriptor).transform([Atoms("H"), Atoms("Og")])
    with pytest.raises(OptionError, match="median"):
        GMPTransformer(descriptor, "median").fit(STRUCTURES)
    with pytest.raises(ValueError, match="cutoff"):
        GMPTransformer(descriptor).set_params(cutoff=3.0)


def test_goes_to_other_processes(descriptor: GMP) -> None:
    # After use too.
    transformer = GMPTransformer(descriptor)
    table = transformer.transform(STRUCTURES)
    again = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(again.transform(STRUCTURES), table)


def test_nothing_is_imported_for_it() -> None:
    # Neither scikit-learn nor torch nor numba before they are needed.
    code = (
        "import sys, ampflow.fingerprints.transformer;"
        "print([m for m in ('sklearn', 'torch', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_in_scikit_learn(descriptor: GMP) -> None:
    # In a pipeline, a grid search over descriptors, and a clone.
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    energies = [float(len(atoms)) for atoms in STRUCTURES]
    model = make_pipeline(GMPTransformer(descriptor), StandardScaler(), Ridge(1e-3))
    assert model.fit(STRUCTURES, energies).predict(STRUCTURES[:2]).shape == (2,)
    assert list(model[:-1].get_feature_names_out()) == [
        f"sum-{name}" for name in descriptor.feature_names
    ]
    choices = {
        "gmptransformer__descriptor": [descriptor, GMP([1.0], [0], 4.0)],
        "gmptransformer__pool": ["sum", "mean"],
    }
    search = GridSearchCV(model, choices, cv=2).fit(STRUCTURES, energies)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert clone(model[0]).descriptor == descriptor
