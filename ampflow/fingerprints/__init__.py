"""Gaussian multipole fingerprints: definition, densities, compiled kernel."""

from __future__ import annotations

from ampflow.fingerprints.densities import Densities, read_densities
from ampflow.fingerprints.gmp import GMP

__all__ = ["GMP", "Densities", "read_densities"]
