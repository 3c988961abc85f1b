"""Time GMP fingerprints: milliseconds a structure, and what a cold start costs.

    python benchmarks/fingerprints.py FILE [--densities FOLDER] [--repeats 9]

FILE is anything ASE reads, for instance 300 structures of OC20. One core. Figures are medians over
`repeats` passes through all structures, after one pass that is not counted, in CPU time: waiting
for other programs does not count (what they do to the caches does). Cold starts are in wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from ampflow.fingerprints import GMP, Densities, builtin_densities, read_densities
from ampflow.fingerprints.neighbours import half_pairs
from ampflow.fingerprints.placing import place, single

SIGMAS = [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4]
COLD = """
import time
start = time.perf_counter()
from ase import Atoms
from ampflow.fingerprints import GMP
GMP([0.5, 1.0, 2.0, 3.0], [0, 1, 2, 3], 5.0).compute(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]))
print(time.perf_counter() - start, time.process_time())
"""


def main() -> None:
    arguments = parse()
    structures = ase.io.read(arguments.file, ":")
    densities = densities_of(arguments)
    atoms = np.mean([len(s) for s in structures])
    print(f"{len(structures)} structures of {atoms:.0f} atoms on average; 8 sigmas; median times")
    print(f"{'':38}{'ms/structure':>12} {'pairs':>8} {'list ms':>8} {'rest ms':>8} {'ns/pair':>8}")
    for cutoff in (5.0, 8.0):
        show(f"orders 0-3, cutoff {cutoff:g}", structures, arguments.repeats, densities, cutoff)
    for name, options in {
        "the same at 5, surface": {"harmonics": "surface"},
        "the same at 5, groups": {"normalize": "group"},
        "orders 0-8, cutoff 5": {"orders": range(9)},
    }.items():
        show(name, structures, arguments.repeats, densities, 5.0, **options)
    for cutoff in (5.0, 8.0):
        show_gradient(f"dE/dR and strain, 0-3, cutoff {cutoff:g}", structures, arguments, cutoff)
    for name, (wall, cpu) in cold_starts().items():
        print(f"{name:38}{wall:12.2f} s{cpu:9.2f} s of CPU time")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="structures, anything ASE reads")
    parser.add_argument("--densities", type=Path, help="folder of <El>_*.g files")
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def densities_of(arguments: argparse.Namespace) -> Densities:
    return read_densities(arguments.densities) if arguments.densities else builtin_densities()


def show(
    name: str, structures: list[Any], repeats: int, densities: Any, cutoff: float, **options: Any
) -> None:
    """Print one line: the whole, the neighbour list alone, and what is left for each pair."""
    descriptor = GMP(
        SIGMAS, **{"orders": range(4), "cutoff": cutoff, **options}, densities=densities
    )

    def find_pairs(atoms: Any) -> int:
        return half_pairs(*place(single(atoms)), cutoff).found

    pairs = np.mean([find_pairs(atoms) for atoms in structures])
    whole = milliseconds(descriptor.compute, structures, repeats)
    search = milliseconds(find_pairs, structures, repeats)
    rest = whole - search
    print(
        f"{name:38}{whole:12.3f} {pairs:8.0f} {search:8.3f} {rest:8.3f} {rest / pairs * 1e6:8.0f}"
    )


def show_gradient(name: str, structures: list[Any], arguments: Any, cutoff: float) -> None:
    """Print one line: features pulled back to positions and strain, all included."""
    descriptor = GMP(SIGMAS, range(4), cutoff, densities=densities_of(arguments))
    weights = {id(atoms): np.ones((len(atoms), descriptor.num_features)) for atoms in structures}

    def pull(atoms: Any) -> Any:
        return descriptor.vjp(atoms, weights[id(atoms)])

    print(f"{name:38}{milliseconds(pull, structures, arguments.repeats):12.3f}")


def milliseconds(function: Callable[[Any], Any], structures: list[Any], repeats: int) -> float:
    """Return the median over passes of the mean time a structure."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        for atoms in structures:
            function(atoms)
        times.append((time.process_time() - start) / len(structures) * 1e3)
    return statistics.median(times[1:])


def cold_starts() -> dict[str, tuple[float, ...]]:
    """Seconds from `import` to the first fingerprints of a new process: wall and CPU."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        times = []
        for _ in range(6):
            command = [sys.executable, "-c", COLD]
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            times.append(tuple(map(float, done.stdout.split())))
    later = tuple(statistics.median(column) for column in zip(*times[1:], strict=True))
    return {"first start ever (compiles)": times[0], "later starts (compiled code on disk)": later}


if __name__ == "__main__":
    main()
