"""How fast a core is at the instructions that fingerprints are made of, and what a pair costs.

    python benchmarks/peak.py FILE [--densities FOLDER]

Each mix runs alone on data that stays in registers or the first cache, without anything else that
the kernel does in between: the fastest of 30 goes, in operations a nanosecond (a fused multiply-add
is two). From these, and the mean number of each operation that a pair of FILE costs, follows the
time that a pair would take if nothing waited; below it is what a pair takes. Orders 0-3, solid
harmonics, 8 sigmas, cutoff 5 Å.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ase.io
import numba
import numpy as np

from ampflow.fingerprints import GMP, Densities, builtin_densities, read_densities
from ampflow.fingerprints.exponential import exp2
from ampflow.fingerprints.neighbours import half_pairs
from ampflow.fingerprints.placing import Batch, join_atoms, place, single
from ampflow.simd import eight, fma, four, like, load, pick, store, total

SIGMAS, ORDERS, CUTOFF = [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4], range(4), 5.0
TERMS = sum(2 * order + 1 for order in ORDERS)
EXPONENTIAL = 25  # operations of one lane: 10 fused multiply-adds, and 5 others
GOES = 30

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit(function: _Function) -> _Function:
    """Compile as the kernels are."""
    compiled: _Function = numba.njit(function, error_model="numpy", nogil=True)
    return compiled


@jit
def fuse(x: Any, rounds: int) -> float:
    """Ten chains of fused multiply-adds, four lanes each: what the units can do at most."""
    one = four(1.0)
    a, b, c, d = load(x, 0, one), load(x, 1, one), load(x, 2, one), load(x, 3, one)
    e, f, g, h = load(x, 4, one), load(x, 5, one), load(x, 6, one), load(x, 7, one)
    i, j = load(x, 8, one), load(x, 9, one)
    by, more = load(x, 16, one), load(x, 20, one)
    for _ in range(rounds):
        a, b, c = fma(a, by, more), fma(b, by, more), fma(c, by, more)
        d, e, f = fma(d, by, more), fma(e, by, more), fma(f, by, more)
        g, h, i, j = fma(g, by, more), fma(h, by, more), fma(i, by, more), fma(j, by, more)
    result: float = total(a + b + c + d + e + f + g + h + i + j)
    return result


@jit
def exponentiate(x: Any, out: Any, rounds: int) -> None:
    """Exponentials of eight lanes, none of which waits for another."""
    for _ in range(rounds):
        for k in range(0, len(x), 8):
            store(out, k, exp2(load(x, k, eight(0.0))))


@jit
def weigh(weights: Any, x: Any, out: Any, rounds: int) -> None:
    """Exponentials that are there, added to four radial functions."""
    for _ in range(rounds):
        a = b = c = d = eight(0.0)
        for k in range(0, len(x), 8):
            value = load(x, k, a)
            a = fma(load(weights, 4 * k, a), value, a)
            b = fma(load(weights, 4 * k + 8, a), value, b)
            c = fma(load(weights, 4 * k + 16, a), value, c)
            d = fma(load(weights, 4 * k + 24, a), value, d)
        store(out, 0, a)
        store(out, 8, b)
        store(out, 16, c)
        store(out, 24, d)


@jit
def add(values: Any, terms: Any, sums: Any, rounds: int) -> None:
    """Products added to the sums of one of eight atoms after the other."""
    size = 8 * len(terms)
    for r in range(rounds):
        to = (r % 8) * size
        for t in range(len(terms)):
            value = load(values, 8 * (t % 4), eight(0.0))
            at = to + 8 * t
            store(sums, at, fma(like(pick(terms, t), value), value, load(sums, at, value)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="structures, anything ASE reads")
    parser.add_argument("--densities", type=Path, help="folder of <El>_*.g files")
    arguments = parser.parse_args()
    structures: list[Any] = list(ase.io.iread(arguments.file, ":"))
    densities = read_densities(arguments.densities) if arguments.densities else builtin_densities()
    rates, counts = measure_rates(), count_operations(structures, densities)
    print(f"{'':22}{'operations/ns':>14} {'a pair':>8} {'ns':>8}")
    for name, rate in rates.items():
        count = counts.get(name, 0.0)
        print(f"{name:22}{rate:14.1f} {count:8.0f} {count / rate:8.1f}")
    least = sum(count / rates[name] for name, count in counts.items())
    taken, every = time_pair(structures, densities), sum(counts.values())
    print(f"{'a pair, if none waits':22}{every / least:14.1f} {every:8.0f} {least:8.1f}")
    print(f"{'a pair as it is':22}{every / taken:14.1f} {every:8.0f} {taken:8.1f}")


def measure_rates() -> dict[str, float]:
    """Operations a nanosecond of each mix."""
    x, out = -np.random.default_rng(0).uniform(0, 30, 32), np.zeros(32)
    weights, terms, sums = np.ones(4 * len(x)), np.full(TERMS, 1e-9), np.zeros(8 * 8 * TERMS)
    near_one, rounds = np.random.default_rng(1).uniform(0.9, 1.0, 24), 20_000
    goes: dict[str, tuple[Callable[[], Any], float]] = {
        "multiply-adds alone": (lambda: fuse(near_one, rounds), 10 * 4 * 2),
        "exponentials": (lambda: exponentiate(x, out, rounds), EXPONENTIAL * len(x)),
        "radial functions": (lambda: weigh(weights, x, out, rounds), 4 * 2 * len(x)),
        "sums": (lambda: add(x, terms, sums, rounds), 2 * 8 * TERMS),
    }
    return {name: count * rounds / fastest(go) for name, (go, count) in goes.items()}


def fastest(function: Callable[[], Any]) -> float:
    """Nanoseconds of the fastest of some goes."""
    function()  # compiles
    best = float("inf")
    for _ in range(GOES):
        start = time.perf_counter_ns()
        function()
        best = min(best, time.perf_counter_ns() - start)
    return best


def count_operations(structures: list[Any], densities: Densities) -> dict[str, float]:
    """Operations that a pair costs, the mean over all pairs of the structures."""
    pairs, gaussians = 0, 0
    for atoms in structures:
        found = half_pairs(*place(single(atoms)), CUTOFF)
        size = {number: len(densities.of(number)) for number in set(atoms.numbers.tolist())}
        first = atoms.numbers[found.first[: found.found]]
        second = atoms.numbers[found.second[: found.found]]
        own = np.vectorize(size.get)
        if found.found:  # atoms of one element share the radial functions
            gaussians += (own(first) + np.where(first == second, 0, own(second))).sum()
        pairs += found.found
    lanes = len(SIGMAS) * gaussians / pairs
    return {
        "exponentials": EXPONENTIAL * lanes,
        "radial functions": 2 * len(ORDERS) * lanes,
        "sums": 2 * 2 * TERMS * len(SIGMAS),
    }


def time_pair(structures: list[Any], densities: Densities) -> float:
    """Nanoseconds of CPU time a pair, in batches, without finding it: the fastest of some goes."""
    descriptor = GMP(SIGMAS, ORDERS, CUTOFF, densities=densities)
    batches = [join_atoms(structures[k : k + 16]) for k in range(0, len(structures), 16)]

    def find(batch: Batch) -> int:
        return half_pairs(*place(batch), CUTOFF).found

    pairs = sum(map(find, batches))
    best = {descriptor.compute_batch: float("inf"), find: float("inf")}
    for _ in range(GOES):
        for function in best:
            start = time.process_time_ns()
            for batch in batches:
                function(batch)
            best[function] = min(best[function], time.process_time_ns() - start)
    return (best[descriptor.compute_batch] - best[find]) / pairs


if __name__ == "__main__":
    main()
