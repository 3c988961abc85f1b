"""Structures the project makes itself, with a real energy function: no download, no licence.

Metal and alloy slabs with adsorbates, 6- to 19-atom clusters and strained bulk cells, rattled,
with energies and forces of effective medium theory (ASE's EMT; Jacobsen, Stoltze, Nørskov,
Surf. Sci. 366, 394 (1996)). EMT describes the metals well and H, C, N and O only crudely, so the
energies are good to show the flow with, and for no chemistry.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Icosahedron, Octahedron
from ase.data import covalent_radii
from ase.io import write

from ampflow.errors import OptionError
from ampflow.files import atomic_path

__all__ = ["make_demo_structures", "write_demo"]

_LATTICE = {"Cu": 3.59, "Ag": 4.06, "Au": 4.06, "Pd": 3.88, "Pt": 3.92}  # Å, fcc in EMT
_METALS = tuple(_LATTICE)
_ADSORBATES = ("O", "H", "N", "C", "CO")
_CO_LENGTH = 1.15  # Å
_STRAIN = 0.04  # largest relative change of a length
_RATTLE = (0.02, 0.10)  # Å, standard deviations
_NEAREST = 0.75  # shortest distance allowed, in sums of covalent radii
_LARGEST_FORCE = 10.0  # eV/Å; EMT repels a few hydrogen atoms with more than 100
_FORMATS = {".traj": "traj", ".extxyz": "extxyz", ".xyz": "extxyz"}


def make_demo_structures(count: int = 300, seed: int = 0) -> list[Atoms]:
    """Make `count` structures with energies (eV) and forces (eV/Å).

    Parameters
    ----------
    count
        Number of structures. The first ones are the same whatever the count.
    seed
        The same seed gives the same structures.

    Returns
    -------
    list of ase.Atoms
        Each with a `SinglePointCalculator` that holds its EMT energy and forces.

    Raises
    ------
    OptionError
        If `count` is below 1 or `seed` below 0.
    """
    if count < 1 or seed < 0:
        raise OptionError(
            f"demo: count = {count}, seed = {seed}", "a count of 1 or more and a seed of 0 or more"
        )
    return [_make(np.random.default_rng((seed, index))) for index in range(count)]


def write_demo(path: Path, count: int = 300, seed: int = 0) -> None:
    """Write the structures of `make_demo_structures` to a .traj, .extxyz or .xyz file, atomically.

    Raises
    ------
    OptionError
        If the name ends in something else, or `count` or `seed` is out of range.
    StorageError
        If the file cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise OptionError(
            f"{path}: cannot write structures to a file named so",
            f"a name that ends in {', '.join(_FORMATS)}",
        )
    structures = make_demo_structures(count, seed)
    with atomic_path(path) as part:
        write(part, structures, format=_FORMATS[path.suffix])


def _make(rng: np.random.Generator) -> Atoms:
    """Draw until a structure has sensible distances and forces."""
    while True:
        make = rng.choice([_slab, _cluster, _bulk], p=[0.6, 0.2, 0.2])  # type: ignore[arg-type]
        atoms: Atoms = make(rng)
        atoms.rattle(rng.uniform(*_RATTLE), rng=rng)
        if not _is_open(atoms):
            continue
        atoms.calc = EMT()
        energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
        if np.abs(forces).max() < _LARGEST_FORCE:
            atoms.info.clear()  # builders leave notes there that extxyz cannot hold
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
            return atoms


def _slab(rng: np.random.Generator) -> Atoms:
    metal, other = _pair(rng)
    face = rng.choice([fcc111, fcc100])  # type: ignore[arg-type]
    size = (2, 2, int(rng.integers(2, 5)))
    slab: Atoms = face(metal, size=size, a=_lattice(metal, other), vacuum=6.0)
    _mix(slab, other, rng)
    _strain(slab, rng)
    slab.pbc = (True, True, bool(rng.integers(2)))
    if rng.random() < 0.8:
        _adsorb(slab, rng)
    return slab


def _adsorb(slab: Atoms, rng: np.random.Generator) -> None:
    """Put an atom, or CO with its carbon down, above a random place of the surface."""
    name = str(rng.choice(_ADSORBATES))
    adsorbate = Atoms(name, [(0, 0, i * _CO_LENGTH) for i in range(len(name))])
    place = rng.random(2) @ slab.cell[:2, :2]
    add_adsorbate(slab, adsorbate, height=rng.uniform(1.0, 2.2), position=place)


def _cluster(rng: np.random.Generator) -> Atoms:
    metal, other = _pair(rng)
    a = _lattice(metal, other)
    shape = rng.integers(4)
    if shape == 0:
        cluster = Icosahedron(metal, 2, latticeconstant=a)  # 13 atoms
    else:
        length, cutoff = [(2, 0), (3, 1), (3, 0)][shape - 1]  # 6, 13 and 19 atoms
        cluster = Octahedron(metal, length, cutoff=cutoff, latticeconstant=a)
    cluster = Atoms(cluster.numbers, cluster.positions)
    _mix(cluster, other, rng)
    cluster.positions *= rng.uniform(1 - _STRAIN, 1 + _STRAIN)
    return cluster


def _bulk(rng: np.random.Generator) -> Atoms:
    metal, other = _pair(rng)
    crystal = bulk(metal, "fcc", a=_lattice(metal, other), cubic=True)
    crystal *= (int(rng.integers(1, 4)), 1, 1)
    _mix(crystal, other, rng)
    _strain(crystal, rng)
    return crystal


def _pair(rng: np.random.Generator) -> tuple[str, str]:
    """Return two metals, half of the time the same one."""
    metal, other = rng.choice(_METALS, 2, replace=False)
    return str(metal), str(other if rng.random() < 0.5 else metal)


def _lattice(*metals: str) -> float:
    """Return the mean of the metals' fcc lattice constants, Å."""
    constants = [_LATTICE[metal] for metal in metals]
    return sum(constants) / len(constants)


def _mix(atoms: Atoms, other: str, rng: np.random.Generator) -> None:
    """Turn up to half of the atoms into `other`."""
    count = rng.integers(1, len(atoms) // 2 + 1)
    atoms.symbols[rng.choice(len(atoms), count, replace=False)] = other


def _strain(atoms: Atoms, rng: np.random.Generator) -> None:
    """Stretch and shear the periodic directions by up to `_STRAIN`."""
    strain = rng.uniform(-_STRAIN, _STRAIN, (3, 3))
    strain = np.where(np.outer(atoms.pbc, atoms.pbc), (strain + strain.T) / 2, 0)
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)


def _is_open(atoms: Atoms) -> bool:
    """Tell whether every pair of atoms, also across the cell, keeps its distance."""
    radii = covalent_radii[atoms.numbers]
    nearest = _NEAREST * np.add.outer(radii, radii)
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    return bool((distances > nearest).all())
