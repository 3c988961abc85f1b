from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ampflow.errors import DataError
from ampflow.experiment import Split
from ampflow.splits import PARTS, Splits, make_splits
from ampflow.store import Index


def make_index(formula_ids: list[int], geometries: list[int], file_ids: list[int]) -> Index:
    zeros = np.zeros(len(formula_ids), dtype=np.int64)
    names = np.array([f"{geometry:020x}" for geometry in geometries])
    formulas = [f"CuO{i + 2}" for i in range(max(formula_ids) + 1)]
    ids, files = np.array(formula_ids), np.array(file_ids)
    return Index(zeros + 1, zeros * 1.0, names, formulas, ids, files, zeros)


def simple_index(count: int) -> Index:
    return make_index([0] * count, list(range(count)), [0] * count)


@settings(deadline=None)
@given(
    structures=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=60),
    strategy=st.sampled_from(["random", "stratified"]),
    seed=st.integers(0, 5),
)
def test_parts_are_disjoint_complete_and_keep_twins_together(structures, strategy, seed) -> None:
    # Whatever the data: every structure is in exactly one part, and equal geometries in the same.
    formula_of = {geometry: formula for formula, geometry in structures}
    geometries = [geometry for _, geometry in structures]
    index = make_index([formula_of[g] for g in geometries], geometries, [0] * len(geometries))
    options = Split(strategy=strategy, train=0.6, validation=0.2, test=0.2)
    try:
        splits = make_splits(index, ["files"], options, seed)
    except DataError as error:  # few distinct structures may leave a part empty, which is said
        assert "empty" in error.what
        return
    parts = [set(getattr(splits, part).tolist()) for part in PARTS]
    assert sorted(i for part in parts for i in part) == list(range(len(structures)))
    where = {index.geometries[i]: number for number, part in enumerate(parts) for i in part}
    assert all(where[index.geometries[i]] == n for n, part in enumerate(parts) for i in part)


def test_shares_are_met() -> None:
    # 80/10/10 of 300 is 240/30/30.
    splits = make_splits(simple_index(300), ["files"], Split(), 0)
    assert [len(getattr(splits, part)) for part in PARTS] == [240, 30, 30]


def test_the_seed_decides() -> None:
    # The same seed gives the same parts, another seed others.
    index = simple_index(100)
    first, again, other = (make_splits(index, ["files"], Split(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.test.tolist()) != set(other.test.tolist())


def test_stratified_keeps_the_proportions_of_each_composition() -> None:
    # Ten compositions of 30: each has 24, 3 and 3 structures in the parts, give or take one.
    index = make_index([i % 10 for i in range(300)], list(range(300)), [0] * 300)
    splits = make_splits(index, ["files"], Split(strategy="stratified"), 0)
    for part, expected in zip(PARTS, (24, 3, 3), strict=True):
        counts = np.bincount(index.formula_ids[getattr(splits, part)], minlength=10)
        assert np.abs(counts - expected).max() <= 1


def test_every_element_is_in_train() -> None:
    # Nothing can be said of an element that was not trained on, however rare it is.
    index = make_index([0] * 99 + [1], list(range(100)), [0] * 100)
    index.formulas[:] = ["H2O", "WO3"]
    for strategy in ("random", "stratified"):
        for seed in range(20):
            splits = make_splits(index, ["files"], Split(strategy=strategy), seed)
            assert 99 in splits.train
            assert abs(len(splits.train) - 80) <= 1


def test_explicit_files_are_the_parts() -> None:
    # A test file is the test part as it is; the shares of the others are scaled up.
    index = make_index([0] * 60, list(range(60)), [0] * 45 + [1] * 15)
    splits = make_splits(index, ["files", "test"], Split(), 0)
    assert splits.test.tolist() == list(range(45, 60))
    assert (len(splits.train), len(splits.validation)) == (40, 5)
    both = make_splits(
        make_index([0] * 6, list(range(6)), [0, 0, 0, 0, 1, 2]),
        ["files", "validation", "test"],
        Split(),
        0,
    )
    assert [getattr(both, part).tolist() for part in PARTS] == [[0, 1, 2, 3], [4], [5]]


def test_an_empty_part_is_an_error() -> None:
    # Two structures cannot be three parts.
    with pytest.raises(DataError, match="part of the split is empty"):
        make_splits(simple_index(2), ["files"], Split(), 0)


def test_overlapping_parts_are_refused() -> None:
    # Disjointness is asserted, not assumed.
    with pytest.raises(DataError, match="not disjoint"):
        Splits(np.array([0, 1]), np.array([1]), np.array([2]))


def test_written_splits_are_read(tmp_path: Path) -> None:
    # Writing and reading gives the same parts.
    splits = make_splits(simple_index(50), ["files"], Split(), 0)
    splits.write(tmp_path / "s.json")
    for part in PARTS:
        np.testing.assert_array_equal(
            getattr(Splits.read(tmp_path / "s.json"), part), getattr(splits, part)
        )
