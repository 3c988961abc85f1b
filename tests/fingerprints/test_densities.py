from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.data import atomic_numbers, chemical_symbols

from ampflow.errors import DataError
from ampflow.fingerprints.densities import Densities, builtin_densities, read_densities

WATER = {8: [[4.7, 3.8], [0.4, 1.3], [-16.7, 21.1]], 1: [[0.95, 1.75]]}

TABLE: dict[str, Any] = json.loads(
    resources.files("ampflow.fingerprints").joinpath("densities.json").read_text(encoding="utf-8")
)["elements"]
PAGE = Path(__file__).parents[2] / "docs" / "densities.md"
every_element = pytest.mark.parametrize("symbol", list(TABLE))


def _of(symbol: str) -> tuple[np.ndarray, np.ndarray]:
    amplitudes, exponents = builtin_densities().of(atomic_numbers[symbol]).T
    return amplitudes, exponents


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


# A folder in AMPTorch's format gives exactly the numbers that are written there.
def test_read_densities_returns_what_the_files_say(tmp_path: Path) -> None:
    _write(tmp_path, "O_pseudodensity_3.g", "4.7 3.8\n0.4\t1.3\n\n-16.7 2.11e1\n")
    _write(tmp_path, "H_pseudodensity_1.g", "0.95 1.75")
    _write(tmp_path, "notes.txt", "not a density")
    densities = read_densities(tmp_path)
    assert densities.elements == (1, 8)
    np.testing.assert_array_equal(densities.of(8), WATER[8])
    assert densities == Densities(WATER)


# Every density that AMPTorch ships can be read.
def test_read_densities_reads_amptorch_folder(shared: Path) -> None:
    densities = read_densities(shared / "data" / "gmp_densities")
    assert len(densities.elements) == 63
    assert densities.of(78).shape == (6, 2)


# A file that is not a density is refused with its name and line, and what the format is.
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2\n3\n", "O_a.g, line 2: not two numbers: '3'"),
        ("1 2 3\n", "O_a.g, line 1: not two numbers"),
        ("one 2\n", "O_a.g, line 1: not two numbers: 'one 2'"),
        ("1 2\n\n1 0\n", "O_a.g, line 3: '1 0' is no Gaussian"),
        ("1 -2\n", "O_a.g, line 1: '1 -2' is no Gaussian"),
        ("nan 2\n", "O_a.g, line 1: 'nan 2' is no Gaussian"),
        ("\n", "O_a.g: is empty"),
    ],
)
def test_read_densities_names_the_bad_line(tmp_path: Path, text: str, said: str) -> None:
    _write(tmp_path, "O_a.g", text)
    with pytest.raises(DataError, match="`B beta`") as caught:
        read_densities(tmp_path)
    assert said in str(caught.value)


# Ambiguous or missing files are refused.
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["O_a.g", "O_b.g"], "two densities for O (8) in .*O_a.g and O_b.g"),
        (["Xx_a.g"], "'Xx' is not the symbol of an element"),
        (["X_a.g"], "'X' is not the symbol of an element"),
        (["O.g"], "no file `<El>_*.g` in it"),
        ([], "no file `<El>_*.g` in it"),
    ],
)
def test_read_densities_refuses_folder(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        _write(tmp_path, name, "1 1\n")
    pattern = said.replace("(", r"\(").replace(")", r"\)").replace("_*.g", r"_\*\.g")
    with pytest.raises(DataError, match=pattern):
        read_densities(tmp_path)


# A folder or file that cannot be read is said to be so.
def test_read_densities_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_densities(tmp_path / "absent")
    (tmp_path / "O_a.g").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"O_a\.g: cannot be read"):
        read_densities(tmp_path)


# An unknown element is an error that names it, what there is, and what to try.
def test_of_names_the_missing_element() -> None:
    with pytest.raises(DataError, match=r"Pt \(78\); there is one for H O\n  Try: .*densities"):
        Densities(WATER).of(78)
    with pytest.raises(DataError, match="atomic number 200"):
        Densities({}).of(200)


# A subset holds the same numbers, and a missing element is an error there too.
def test_subset() -> None:
    part = Densities(WATER).subset(np.array([8, 8]))
    assert part.elements == (8,)
    np.testing.assert_array_equal(part.of(8), WATER[8])
    with pytest.raises(DataError, match="Pt"):
        part.subset([8, 78])


# JSON and pickle (the way to another process) give the same densities back, bit for bit.
def test_round_trips() -> None:
    thirds = Densities({8: [[1 / 3, 2 / 3]], 1: [[1e-17, 1e5]]})
    again = Densities.from_json(json.loads(json.dumps(thirds.to_json())))
    assert again == thirds
    np.testing.assert_array_equal(again.of(8), thirds.of(8))
    assert pickle.loads(pickle.dumps(thirds)) == thirds


# Bad tables are refused rather than computed with.
@pytest.mark.parametrize(
    "table",
    [
        {"Xx": [[1, 1]]},
        {"O": [1, 1]},
        {"O": [[1, 1, 1]]},
        {"O": [[1, 1], [1]]},
        {"O": []},
        {"O": [["a", 1]]},
        {"O": None},
        {"O": [[1, 0]]},
        {"O": [[float("nan"), 1]]},
    ],
)
def test_from_json_refuses(table: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"Xx|O \(8\)"):
        Densities.from_json(table)


# The digest is the content's: not the order's, and any value's change is seen.
def test_digest_follows_content() -> None:
    base = Densities(WATER)
    reordered = Densities({1: WATER[1], 8: WATER[8][::-1]})
    assert reordered.digest == base.digest
    assert hash(reordered) == hash(base)
    nudged = [[4.7, 3.8], [0.4, np.nextafter(1.3, 2)], [-16.7, 21.1]]
    assert Densities({**WATER, 8: nudged}).digest != base.digest
    assert base.subset([8]).digest != base.digest
    assert Densities({7: WATER[8], 1: WATER[1]}).digest != base.digest


# Densities are shared between descriptors: nobody can change them in place.
def test_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Densities(WATER).of(8)[0, 0] = 0.0


# The table holds every element from H to Rn, and one object serves the whole process.
def test_builtin_elements() -> None:
    assert builtin_densities().elements == tuple(range(1, 87))
    assert builtin_densities() is builtin_densities()


# Every density integrates to the electrons of its valence shells, which are a sensible number.
@every_element
def test_builtin_keeps_the_electron_count(symbol: str) -> None:
    amplitudes, exponents = _of(symbol)
    entry = TABLE[symbol]
    shells = sum(int(shell[2:]) for shell in entry["valence"].split())
    assert shells == entry["electrons"]
    assert amplitudes @ (np.pi / exponents) ** 1.5 == pytest.approx(shells, rel=1e-8)
    assert 1 <= shells <= min(25, atomic_numbers[symbol])


# The number of valence electrons grows by one an element, and falls only where shells close.
def test_builtin_valence_follows_the_periodic_table() -> None:
    counts = [TABLE[symbol]["electrons"] for symbol in chemical_symbols[1:87]]
    falls = [chemical_symbols[z + 1] for z in range(1, 86) if counts[z] != counts[z - 1] + 1]
    assert falls == ["B", "Al", "Ga", "Rb", "In", "Cs", "Hf", "Tl"]


# The Gaussians are few, moderate and well apart, so that nothing cancels in the fingerprints.
@every_element
def test_builtin_is_moderate(symbol: str) -> None:
    amplitudes, exponents = _of(symbol)
    charges = amplitudes * (np.pi / exponents) ** 1.5
    assert 3 <= len(exponents) <= 6
    assert np.abs(amplitudes).max() < 200
    assert np.abs(charges).sum() < 3 * charges.sum()
    assert (np.diff(np.log(np.sort(exponents))) > np.log(1.999)).all()


# A density is positive, has its electrons within a few Å and nothing sharp at the nucleus.
@every_element
def test_builtin_is_a_density(symbol: str) -> None:
    amplitudes, exponents = _of(symbol)
    r = np.geomspace(1e-3, 12, 2000)
    density = np.exp(-np.outer(r**2, exponents)) @ amplitudes
    assert (density >= 0).all()
    shells = 4 * np.pi * np.trapezoid(r**2 * density * (r > 4), r)
    assert shells < 0.05 * TABLE[symbol]["electrons"]
    assert exponents.max() < 250


# The recorded fit error is bounded, and the page tells the same as the table.
@every_element
def test_builtin_fit_error_is_documented(symbol: str) -> None:
    entry = TABLE[symbol]
    assert 0 < entry["fit_error"] < 0.015
    largest = max(abs(amplitude) for amplitude, _ in entry["gaussians"])
    row = (
        f"| {symbol} | {entry['valence']} | {entry['electrons']} | {len(entry['gaussians'])} "
        f"| {largest:.1f} | {100 * entry['fit_error']:.2f} | {100 * entry['smoothing']:.1f} |"
    )
    assert row in PAGE.read_text(encoding="utf-8").splitlines()


# Where AMPTorch's file holds the same electrons (some files lose more than 1 % of theirs), both
# tables say how large an atom is: alike as a rule, and apart by less than 20 % where AMPTorch's
# pseudopotential pushes a d shell outwards.
def test_builtin_resembles_amptorch(shared: Path) -> None:
    theirs = read_densities(shared / "data" / "gmp_densities")
    ratios = []
    for number in theirs.elements:
        (ours_size, ours), (their_size, count) = (
            _moments(table.of(number)) for table in (builtin_densities(), theirs)
        )
        if abs(ours - count) < 0.01 * ours:
            ratios.append(ours_size / their_size)
    assert len(ratios) > 40
    assert np.median(np.abs(np.array(ratios) - 1)) < 0.05
    np.testing.assert_allclose(ratios, 1.0, atol=0.2)


def _moments(gaussians: np.ndarray) -> tuple[float, float]:
    """<r> and the electron count."""
    amplitudes, exponents = gaussians.T
    count = float(amplitudes @ (np.pi / exponents) ** 1.5)
    return float(amplitudes @ (2 * np.pi / exponents**2)) / count, count
