"""Gaussian multipole fingerprints: definition, densities, compiled kernel."""

from __future__ import annotations

from ampflow.fingerprints.densities import Densities, builtin_densities, read_densities
from ampflow.fingerprints.gmp import GMP

__all__ = ["GMP", "Densities", "builtin_densities", "read_densities"]
