"""Time fingerprints of AMPTorch's and ours in one process, in turns, and compare them.

    python benchmarks/amptorch_fingerprints.py FILE --densities FOLDER [--step 2]

GMPOrderNorm, solid harmonics, square, orders 0-3 and 8 sigmas, on every `step`-th structure of
FILE; milliseconds of CPU time a structure, medians of three passes. Derivatives (orders 0-2):
AMPTorch has the whole Jacobian, ours is given as that and as the product that forces need. Needs
AMPTorch (docs/amptorch.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from ampflow.fingerprints import GMP, read_densities
from ampflow.potential.amptorch.compat import load_amptorch

SIGMAS = [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4]
PASSES = 3

Compute = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="structures, anything ASE reads")
    parser.add_argument("--densities", type=Path, required=True, help="folder of <El>_*.g files")
    parser.add_argument("--step", type=int, default=2)
    arguments = parser.parse_args()
    structures = list(ase.io.iread(arguments.file, f"::{arguments.step}"))
    for cutoff in (5.0, 8.0):
        theirs, ours = pair(structures, arguments.densities, 3, cutoff)
        if cutoff == 5.0:
            compare(structures, theirs, ours)
        show(f"cutoff {cutoff:g}", structures, theirs, {"ours": ours.compute})
    few = structures[::5]
    theirs, ours = pair(structures, arguments.densities, 2, 5.0)
    ones = {len(atoms): np.ones((len(atoms), ours.num_features)) for atoms in few}
    products = {
        "our Jacobian": ours.jacobian,
        "our product": lambda atoms: ours.vjp(atoms, ones[len(atoms)]),
    }
    show("derivatives", few, lambda atoms: theirs(atoms, True), products)


def pair(structures: list[Any], folder: Path, order: int, cutoff: float) -> tuple[Compute, GMP]:
    """AMPTorch's function of a structure (element to what it returns), and our descriptor."""
    load_amptorch()
    from amptorch.descriptor.GMPOrderNorm import GMPOrderNorm

    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    files = {element: str(next(folder.glob(f"{element}_*.g"))) for element in elements}
    descriptor = GMPOrderNorm(
        {
            "MCSHs": {"orders": list(range(order + 1)), "sigmas": SIGMAS},
            "atom_gaussians": files,
            "cutoff": cutoff,
            "solid_harmonics": True,
            "square": True,
        },
        elements,
    )

    def theirs(atoms: Any, derivatives: bool = False) -> dict[str, Any]:
        return {
            element: descriptor.calculate_fingerprints(atoms, element, derivatives, False)
            for element in dict.fromkeys(atoms.symbols)
        }

    densities = read_densities(folder)
    return theirs, GMP(SIGMAS, range(order + 1), cutoff, square=True, densities=densities)


def compare(structures: list[Any], theirs: Compute, ours: GMP) -> None:
    """Print in how many structures the features differ, and how much in the others."""
    errors = []
    for atoms in structures:
        found, expected = ours.compute(atoms), theirs(atoms)
        symbols = np.array(atoms.symbols)
        for element, (_, features, *_) in expected.items():
            expected[element] = np.abs(found[symbols == element] - features).max(axis=0)
        errors.append((np.max(list(expected.values()), axis=0) / np.abs(found).max(axis=0)).max())
    same = [error for error in errors if error < 1e-9]
    print(f"{len(errors)} structures: {len(errors) - len(same)} differ by more than 1e-9 of a "
          f"column's maximum, the others by {max(same):.1e} at most")  # fmt: skip


def show(name: str, structures: list[Any], theirs: Compute, ours: dict[str, Compute]) -> None:
    """Print milliseconds a structure, and how many times as long AMPTorch takes."""
    times: dict[str, list[float]] = {key: [] for key in ("AMPTorch", *ours)}
    for function in ours.values():
        function(structures[0])  # compiles
    for _ in range(PASSES):
        for key, function in {"AMPTorch": theirs, **ours}.items():
            start = time.process_time()
            for atoms in structures:
                function(atoms)
            times[key].append((time.process_time() - start) / len(structures) * 1e3)
    print(f"{name}: AMPTorch {statistics.median(times['AMPTorch']):.2f} ms", end="")
    for key in ours:
        ratio = statistics.median(a / b for a, b in zip(times["AMPTorch"], times[key], strict=True))
        print(f"; {key} {statistics.median(times[key]):.3f} ms ({ratio:.0f} times less)", end="")
    print()


if __name__ == "__main__":
    main()
