"""Potentials: reference energies, networks, training, saved models and the ASE calculator."""
