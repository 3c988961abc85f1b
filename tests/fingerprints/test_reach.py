from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ampflow.errors import DataError
from ampflow.fingerprints import GMP, Densities
from ampflow.fingerprints.reach import reach_note, share_beyond

DENSITIES = Densities(
    {
        1: np.array([[0.4, 1.7], [0.9, 11.0]]),
        8: np.array([[-16.0, 21.0], [13.0, 11.0], [4.7, 3.8], [0.4, 1.3]]),
        78: np.array([[-2181.0, 4.4845], [2205.0, 4.4840], [1.4, 1.07]]),
    }
)


def descriptor(**options: object) -> GMP:
    return GMP(**{"sigmas": [0.5, 2.0], "orders": [0], "cutoff": 5.0, **options})


@pytest.mark.parametrize("number", [1, 8, 78])
@pytest.mark.parametrize("sigma", [0.02, 1.0, 4.4])
def test_share_is_what_neighbours_farther_away_add(number: int, sigma: float) -> None:
    # The share of uniform matter's multipole of order 0, from what the descriptor itself says of a
    # pair at each distance.
    far = GMP([sigma], [0], 60.0, "group", densities=DENSITIES)
    distances = np.linspace(0.02, 49.98, 1250)
    alone = far.compute(Atoms([number]))[0, 0]
    pairs = [Atoms([number] * 2, [[0, 0, 0], [0, 0, d]]) for d in distances]
    added = np.array([far.compute(pair)[0, 0] - alone for pair in pairs]) * distances**2
    expected = added[distances > 2.5].sum() / added.sum()
    assert share_beyond(DENSITIES, number, sigma, 2.5) == pytest.approx(expected, abs=6e-3)


def test_note_names_the_wide_sigmas() -> None:
    # Those with more than 5 % of their weight outside, and a cutoff that holds them.
    note = reach_note(descriptor(sigmas=[0.5, 2.66, 4.4]), [1, 8])
    assert "2.66 Å (34%), 4.4 Å (74%)" in note
    assert "0.5 Å" not in note
    enough = int(note.split("cutoff of ")[-1].split(" Å")[0])
    assert reach_note(descriptor(sigmas=[0.5, 2.66, 4.4], cutoff=enough), [1, 8]) == ""
    assert reach_note(descriptor(sigmas=[0.5, 2.66, 4.4], cutoff=enough - 1), [1, 8]) != ""
    assert "over 200 Å" in reach_note(descriptor(sigmas=[90.0]), [1])


def test_note_of_a_smooth_cutoff_speaks_of_no_jump() -> None:
    # With a switch nothing jumps, but what is outside is not seen all the same.
    assert "jump" in reach_note(descriptor(sigmas=[3.0]), [1])
    smooth = reach_note(descriptor(sigmas=[3.0], switch_width=1.0), [1])
    assert "3 Å" in smooth
    assert "jump" not in smooth


def test_no_note_without_reason() -> None:
    # Nothing is said where all is within, and nothing of elements that are not there.
    assert reach_note(descriptor(sigmas=[0.5, 1.2]), [1, 8]) == ""
    assert reach_note(descriptor(sigmas={0: [1.2]}), [1, 8]) == ""
    assert reach_note(descriptor(), []) == ""
    caesium = descriptor(sigmas=[1.6])
    assert reach_note(caesium, [55]) != ""
    assert reach_note(caesium, [1]) == ""
    with pytest.raises(DataError, match="atomic number 120"):
        reach_note(caesium, [120])


def test_densities_without_charge() -> None:
    # Gaussians whose electrons cancel have a reach as well.
    nothing = Densities({1: np.array([[1.0, 1.0], [-1.0, 1.0]])})
    assert 0.2 < share_beyond(nothing, 1, 2.0, 4.0) < 1
