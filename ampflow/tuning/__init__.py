"""Hyperparameter search that loses nothing: space, samplers, study, and the worker loop."""
