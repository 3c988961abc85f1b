"""Make ampflow/fingerprints/densities.json and the table in docs/densities.md.

PySCF is not a dependency of ampflow; give the script an environment of its own:

    python3 -m venv /tmp/densities
    /tmp/densities/bin/pip install pyscf==2.14.0 basis-set-exchange==0.12 numpy scipy
    /tmp/densities/bin/python scripts/fit_densities.py

It takes about a quarter of an hour on one core. docs/densities.md explains what is done and why.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import basis_set_exchange
import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib
from pyscf.data import elements
from pyscf.scf import atom_hf, atom_ks
from pyscf.x2c import sfx2c1e
from scipy.optimize import Bounds, brentq, least_squares

Array = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "ampflow" / "fingerprints" / "densities.json"
PAGE = ROOT / "docs" / "densities.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

METHOD = "spin-restricted, spherically averaged atom; PBE; spin-free exact two-component (X2C-1e)"
BASIS = "x2c-TZVPall"
BOHR = 0.529177210903  # Å
GRID = np.geomspace(1e-3, 20, 1200) * BOHR  # Å

# Shells (s, p, d, f) that are core, up to this atomic number. What is left: the outermost s and
# p, the d and f filled since the last noble gas, and for groups 1 to 12 the s and p beneath.
CORES = {
    4: (0, 0, 0, 0),
    12: (1, 0, 0, 0),
    30: (2, 1, 0, 0),
    36: (3, 2, 0, 0),
    48: (3, 2, 1, 0),
    54: (4, 3, 1, 0),
    71: (4, 3, 2, 0),
    80: (4, 3, 2, 1),
    86: (5, 4, 2, 1),
}
# PySCF's ground-state configurations, but Tb as 4f9 6s2: electrons in s, p, d, f.
CONFIGURATIONS = [*elements.CONFIGURATION[:65], [12, 24, 20, 9], *elements.CONFIGURATION[66:]]

ENOUGH = 0.01  # relative L2 error of r²n(r) at which no further Gaussian is added
GAUSSIANS = range(3, 7)
RATIO = 2.0  # neighbouring exponents differ by this at least: near-equal ones would cancel
RIDGE = 3e-3  # weight of the Gaussians' charges (in units of the atom's) in the misfit
CENTRE = 0.5  # the fit at the nucleus is at least this share of the reference: never negative

log = logging.getLogger("fit_densities")


@dataclass(frozen=True)
class Shell:
    """One occupied nl shell: its electrons and its spherical density on GRID (e/Å³)."""

    n: int
    l: int  # noqa: E741
    electrons: float
    density: Array

    @property
    def label(self) -> str:
        """As in 3d10."""
        return f"{self.n}{'spdf'[self.l]}{round(self.electrons)}"


@dataclass(frozen=True)
class Fit:
    """One element of the table; gaussians are rows of B (e/Å³) and beta (1/Å²)."""

    electrons: int
    valence: str
    fit_error: float
    smoothing: float
    gaussians: list[list[float]]


def valence_shells(number: int) -> list[Shell]:
    """Solve the atom and return its valence shells."""
    symbol = elements.ELEMENTS[number]
    basis = gto.basis.parse(
        basis_set_exchange.get_basis(BASIS, elements=[number], fmt="nwchem", header=False)
    )
    mol = gto.M(atom=symbol, basis={symbol: basis}, spin=None, verbose=0)
    core_hamiltonian = sfx2c1e.SpinFreeX2CHelper(mol).get_hcore()
    atom = atom_ks.AtomSphAverageRKS(mol)
    atom.atomic_configuration = CONFIGURATIONS
    atom.xc = "pbe"
    atom.grids.atom_grid = (200, 110)
    atom.conv_tol = 1e-10
    atom.max_cycle = 300
    atom.verbose = 0
    atom.get_hcore = lambda *_: core_hamiltonian
    atom.kernel()
    if not atom.converged:
        raise RuntimeError(f"{symbol}: the atom did not converge")
    along_z = np.outer(GRID / BOHR, [0.0, 0.0, 1.0])
    orbitals = dft.numint.eval_ao(mol, along_z) @ atom.mo_coeff
    density = atom.mo_occ * orbitals**2 / BOHR**3
    momenta = atom_hf._angular_momentum_for_each_ao(mol)  # orbitals come sorted by l, too
    return _shells(density, atom.mo_occ, momenta, next(c for z, c in CORES.items() if number <= z))


def _shells(
    density: Array, occupations: Array, momenta: Array, core: tuple[int, ...]
) -> list[Shell]:
    shells = []
    for momentum, frozen in enumerate(core):
        members = np.flatnonzero((momenta == momentum) & (occupations > 0))
        for index, shell in enumerate(members.reshape(-1, 2 * momentum + 1)):
            if index >= frozen:
                n, electrons = index + momentum + 1, float(occupations[shell].sum())
                shells.append(Shell(n, momentum, electrons, density[:, shell].sum(axis=1)))
    return sorted(shells, key=lambda shell: (shell.n, shell.l))


def smoothed(shell: Shell) -> Array:
    """Replace the part of a shell's density that has nodes by a smooth one (e/Å³).

    Inside the outermost maximum r_c of r²n it becomes, with x = (r/r_c)²,
    n(r_c) x^l exp(-(l+1)(x-1) + a(x-1)²): same value and slope at r_c, and a chosen so that
    the charge inside is the same. (Kerker, J. Phys. C 13, L189 (1980) does so with orbitals.)
    A shell without nodes stays as it is.
    """
    if shell.n == shell.l + 1:
        return shell.density
    edge = int(np.argmax(GRID**2 * shell.density))
    inside = slice(0, edge + 1)
    radius, x = GRID[inside], (GRID[inside] / GRID[edge]) ** 2

    def inner(a: float) -> Array:
        shape = x**shell.l * np.exp(-(shell.l + 1) * (x - 1) + a * (x - 1) ** 2)
        return np.asarray(shell.density[edge] * shape)

    def charge(density: Array) -> float:
        return float(np.trapezoid(radius**2 * density, radius))

    kept = charge(shell.density[inside])
    a = brentq(lambda a: charge(inner(a)) - kept, -30, 60)
    return np.concatenate([inner(a), shell.density[edge + 1 :]])


def distance(density: Array, reference: Array) -> float:
    """Relative L2 distance of r²n(r): sqrt(∫(r²Δn)² dr / ∫(r²n)² dr)."""
    weight = GRID**4 * np.gradient(GRID)
    return float(np.sqrt(weight @ (density - reference) ** 2 / (weight @ reference**2)))


def evaluate(gaussians: Array) -> Array:
    """Density of a sum of Gaussians on GRID (e/Å³)."""
    return np.asarray(np.exp(-np.outer(GRID**2, gaussians[:, 1])) @ gaussians[:, 0])


def amplitudes(betas: Array, reference: Array, electrons: int) -> tuple[Array, Array]:
    """Return the best B (e/Å³) for given exponents, and the residuals of the misfit.

    The misfit is that of r²n(r) and, weighted with RIDGE, the charges of the Gaussians. The
    electron count is kept exactly, and the centre at CENTRE of the reference at least.
    """
    charges = (np.pi / betas) ** 1.5 / electrons  # of unit amplitudes
    weight = GRID**2 * np.sqrt(np.gradient(GRID))
    scale = np.linalg.norm(weight * reference)
    columns = np.exp(-np.outer(GRID**2, betas)) / charges * (weight / scale)[:, None]
    matrix = np.vstack([columns, RIDGE * np.eye(len(betas))])
    target = np.concatenate([weight * reference / scale, np.zeros(len(betas))])
    shares = _constrained(matrix, target, np.ones((1, len(betas))))
    centre = 1 / (charges * CENTRE * reference[0])
    if centre @ shares < 1:
        shares = _constrained(matrix, target, np.vstack([np.ones(len(betas)), centre]))
    return shares / charges, matrix @ shares - target


def _constrained(matrix: Array, target: Array, ones: Array) -> Array:
    """Least squares under `ones @ solution = 1`, by Lagrange multipliers."""
    solved = np.linalg.solve(matrix.T @ matrix, np.column_stack([matrix.T @ target, ones.T]))
    free, pull = solved[:, 0], solved[:, 1:]
    return np.asarray(free - pull @ np.linalg.solve(ones @ pull, ones @ free - 1))


def fit_gaussians(reference: Array, electrons: int, count: int) -> Array:
    """Return the best (count, 2) B and beta, exponents rounded to 5 digits, B to 10."""
    size = electrons / (4 * np.pi * np.trapezoid(GRID**4 * reference, GRID))  # 1/Å², <r²>^-1
    steps = [np.log(RATIO)] * (count - 1), [np.log(8.0)] * (count - 1)
    bounds = Bounds([np.log(0.3 * size), *steps[0]], [np.log(4.5 * size), *steps[1]])

    def residuals(x: Array) -> Array:
        return amplitudes(np.exp(np.cumsum(x)), reference, electrons)[1]

    starts = [
        np.log([first * size] + [step] * (count - 1))
        for first in (0.75, 1.2)
        for step in (2.3, 3.2)
    ]
    fits = [least_squares(residuals, start, bounds=bounds, x_scale=0.3) for start in starts]
    best = min(fits, key=lambda fit: float(fit.cost)).x
    betas = np.array([float(f"{beta:.5g}") for beta in np.exp(np.cumsum(best))])
    rounded = [float(f"{b:.10g}") for b in amplitudes(betas, reference, electrons)[0]]
    return np.column_stack([rounded, betas])


def fit_element(number: int) -> Fit:
    """Solve, smooth and fit one element with as few Gaussians as are enough."""
    shells = valence_shells(number)
    electrons = round(sum(shell.electrons for shell in shells))
    reference = np.sum([smoothed(shell) for shell in shells], axis=0)
    for count in GAUSSIANS:
        gaussians = fit_gaussians(reference, electrons, count)
        density = evaluate(gaussians)
        error = distance(density, reference)
        if error < ENOUGH and density.min() >= 0:
            break
    if density.min() < 0:
        raise RuntimeError(f"{elements.ELEMENTS[number]}: the fit is negative somewhere")
    return Fit(
        electrons=electrons,
        valence=" ".join(shell.label for shell in shells),
        fit_error=round(error, 5),
        smoothing=round(distance(reference, np.sum([s.density for s in shells], axis=0)), 4),
        gaussians=gaussians.tolist(),
    )


def json_text(fits: dict[str, Fit]) -> str:
    """Format the table with an element a line."""
    head = {"method": METHOD, "basis": BASIS, "units": "B in e/Å³, beta in 1/Å²"}
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},"
        for key, value in head.items()
    ]
    rows = [f"  {json.dumps(symbol)}: {json.dumps(asdict(fit))}" for symbol, fit in fits.items()]
    return "\n".join(["{", *lines, ' "elements": {', ",\n".join(rows), " }", "}", ""])


def markdown(fits: dict[str, Fit]) -> str:
    """Format the table of docs/densities.md."""
    lines = [
        "| | valence shells | electrons | Gaussians | largest \\|B\\| (e/Å³) "
        "| fit error (%) | smoothing (%) |",
        "|---|---|---|---|---|---|---|",
    ]
    for symbol, fit in fits.items():
        largest = max(abs(b) for b, _ in fit.gaussians)
        lines.append(
            f"| {symbol} | {fit.valence} | {fit.electrons} | {len(fit.gaussians)} | {largest:.1f} "
            f"| {100 * fit.fit_error:.2f} | {100 * fit.smoothing:.1f} |"
        )
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file at once."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def main() -> None:
    """Fit every element up to Rn; with --elements, show some and write nothing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", nargs="+", metavar="EL", help="show these, write nothing")
    chosen = parser.parse_args().elements
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lib.num_threads(1)  # the same sums in the same order: the same digits
    fits = {}
    for symbol in chosen or elements.ELEMENTS[1:87]:
        fits[symbol] = fit_element(elements.charge(symbol))
        log.info("%s %s", symbol, json.dumps(asdict(fits[symbol])))
    if chosen:
        return
    write(TABLE, json_text(fits))
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    write(PAGE, before + BEGIN + markdown(fits) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
