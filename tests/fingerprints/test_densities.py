from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from ampflow.errors import DataError
from ampflow.fingerprints.densities import Densities, read_densities

WATER = {8: [[4.7, 3.8], [0.4, 1.3], [-16.7, 21.1]], 1: [[0.95, 1.75]]}


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
