"""Tuned neural-network potentials from DFT structures."""
