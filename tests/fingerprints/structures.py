"""Structures of every kind that there is trouble with, and densities for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ampflow.fingerprints import Densities

# Made up; the last has amplitudes that cancel, as fits of heavy atoms do.
DENSITIES = Densities(
    {
        1: np.array([[0.4, 1.7], [0.9, 11.0]]),
        8: np.array([[-16.0, 21.0], [13.0, 11.0], [4.7, 3.8], [0.4, 1.3]]),
        78: np.array([[-2181.0, 4.4845], [2205.0, 4.4840], [1.4, 1.07]]),
    }
)
SKEWED = [[3.1, 0.0, 0.0], [-1.2, 2.9, 0.3], [0.8, -0.9, 3.6]]


def random_structure(atoms: int, cell: Any, pbc: Any, seed: int) -> Atoms:
    """Atoms in and around a cell, none on top of another."""
    random = np.random.default_rng(seed)
    while True:
        positions = random.uniform(-0.7, 1.7, (atoms, 3)) @ np.array(cell, dtype=float)
        structure = Atoms(random.choice([1, 8, 78], atoms), positions, cell=cell, pbc=pbc)
        apart = structure.get_all_distances(mic=any(structure.pbc))
        if (apart + 9 * np.eye(atoms)).min() > 0.5:
            return structure


STRUCTURES = {
    "molecule without a cell": Atoms("OH2", [[0, 0, 0], [0.76, 0.59, 0.1], [-0.76, 0.59, 0]]),
    "far from the origin": Atoms("OH", [[100, -50, 3e3], [100.5, -50.3, 3000.8]]),
    "skewed crystal": random_structure(3, SKEWED, True, 1),
    "left-handed cell": random_structure(3, SKEWED[::-1], True, 2),
    "one atom, many images": Atoms(
        "Pt", cell=[[0, 1.9, 1.9], [1.9, 0, 1.9], [1.9, 1.9, 0]], pbc=True
    ),
    "slab, vector along c missing": Atoms(
        "PtOH", [[0, 0, 0], [0.3, 0.2, 1.9], [0.5, 0.9, 2.5]], cell=[3, 3.2, 0], pbc=[1, 1, 0]
    ),
    "slab along a, skewed": random_structure(3, SKEWED, [False, True, True], 3),
    "wire along b": random_structure(3, SKEWED, [False, True, False], 4),
    "atoms on cell faces": Atoms(
        "OPtH", [[0, 1.1, 0.3], [-1e-9, 2.4, 1.5], [1.2, 3, -1e-17]], cell=[3, 3, 3.3], pbc=True
    ),
    "one atom, hundreds of images": Atoms(
        "O", cell=[[0.9, 0.1, 0], [0.2, 0.85, 0], [0, 0.3, 1.0]], pbc=True
    ),
    "lonely atom": Atoms("Pt", cell=[9, 9, 9], pbc=True),
}
