"""Electron densities of free atoms, as sums of Gaussians: what GMP fingerprints probe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ampflow.digests import digest
from ampflow.errors import DataError

__all__ = ["Densities", "builtin_densities", "read_densities"]

_FORMAT_HINT = "one file `<El>_*.g` an element, one Gaussian a line: `B beta` (e/Å³ and 1/Å²)"


@dataclass(frozen=True, eq=False)
class Densities:
    """Spherical densities n(r) = Σ B exp(-beta r²) of some elements.

    Two are equal if their content is, whatever the order of elements and Gaussians.

    Parameters
    ----------
    gaussians
        Atomic number to (Gaussians, 2): amplitude B in e/Å³ and exponent beta in 1/Å².

    Raises
    ------
    DataError
        If an array has another shape, a value is not finite, or an exponent is not positive.
    """

    gaussians: Mapping[int, NDArray[np.float64]]

    def __post_init__(self) -> None:
        checked = {number: _checked(number, rows) for number, rows in self.gaussians.items()}
        object.__setattr__(self, "gaussians", checked)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Densities) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Name of the content: changes with any value, not with any order."""
        return digest({symbol: sorted(rows) for symbol, rows in self.to_json().items()})

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that have a density, ascending."""
        return tuple(sorted(self.gaussians))

    def of(self, number: int) -> NDArray[np.float64]:
        """Return the (Gaussians, 2) amplitudes and exponents of one element.

        Raises
        ------
        DataError
            If the element has no density here.
        """
        try:
            return self.gaussians[int(number)]
        except KeyError:
            raise DataError(
                f"no electron density for {_name(number)}; there is one for "
                + (" ".join(chemical_symbols[known] for known in self.elements) or "no element"),
                "give a folder with a file for it (option fingerprints.densities), or leave out "
                'the structures that hold it (data.on_bad = "skip")',
            ) from None

    def subset(self, numbers: Iterable[int]) -> Densities:
        """Return the densities of these elements alone.

        Raises
        ------
        DataError
            If one of them has no density here.
        """
        return Densities({int(number): self.of(number) for number in numbers})

    def to_json(self) -> dict[str, list[list[float]]]:
        """Return {symbol: [[B, beta], ...]}; floats survive JSON unchanged."""
        return {chemical_symbols[number]: self.of(number).tolist() for number in self.elements}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Self:
        """Make densities from what `to_json` returned.

        Raises
        ------
        DataError
            If a key is not the symbol of an element, or the values are not densities.
        """
        return cls({_number(symbol): rows for symbol, rows in table.items()})


@cache
def builtin_densities() -> Densities:
    """Return ampflow's own valence densities, H to Rn (docs/densities.md says how made)."""
    table = resources.files("ampflow.fingerprints").joinpath("densities.json")
    elements = json.loads(table.read_text(encoding="utf-8"))["elements"]
    return Densities.from_json({symbol: entry["gaussians"] for symbol, entry in elements.items()})


def read_densities(folder: Path) -> Densities:
    """Read every `<El>_*.g` file of a folder (AMPTorch's format: `B beta` a line).

    Raises
    ------
    DataError
        If there is no such file, two for one element, or one that cannot be read.
    """
    found = sorted(folder.glob("*_*.g"))
    if not found:
        missing = "no such folder" if not folder.is_dir() else "no file `<El>_*.g` in it"
        raise DataError(f"densities folder {folder}: {missing}", _FORMAT_HINT)
    files: dict[int, Path] = {}
    for path in found:
        number = _number(path.name.split("_")[0], where=f"{path}: ")
        if number in files:
            raise DataError(
                f"two densities for {_name(number)} in {folder}: "
                f"{files[number].name} and {path.name}",
                "keep one of them",
            )
        files[number] = path
    return Densities({number: _read(path) for number, path in files.items()})


def _read(path: Path) -> NDArray[np.float64]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", _FORMAT_HINT) from error
    numbered = [(count, line) for count, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: is empty", _FORMAT_HINT)
    return np.array([_gaussian(line, f"{path}, line {count}") for count, line in numbered])


def _gaussian(line: str, where: str) -> tuple[float, float]:
    try:
        amplitude, exponent = map(float, line.split())
    except ValueError:
        raise DataError(f"{where}: not two numbers: {line.strip()!r}", _FORMAT_HINT) from None
    if not (np.isfinite(amplitude) and np.isfinite(exponent) and exponent > 0):
        raise DataError(
            f"{where}: {line.strip()!r} is no Gaussian: B must be finite, beta positive",
            _FORMAT_HINT,
        )
    return amplitude, exponent


def _checked(number: int, rows: Any) -> NDArray[np.float64]:
    try:
        array = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    shaped = array.ndim == 2 and array.shape[1] == 2 and len(array) > 0
    if not (shaped and np.isfinite(array).all() and (array[:, 1] > 0).all()):
        raise DataError(
            f"the density of {_name(number)} is not a list of Gaussians",
            "rows of two finite numbers, [B, beta], with beta positive",
        )
    array.flags.writeable = False
    return array


def _number(symbol: str, where: str = "") -> int:
    number = atomic_numbers.get(symbol, 0)
    if number == 0:  # ase's "X" is a dummy atom
        raise DataError(f"{where}{symbol!r} is not the symbol of an element", _FORMAT_HINT)
    return int(number)


def _name(number: int) -> str:
    known = 0 < number < len(chemical_symbols)
    return f"{chemical_symbols[number]} ({number})" if known else f"atomic number {number}"
