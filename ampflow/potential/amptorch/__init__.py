"""Training by AMPTorch, a program of its own (GPL-3), for comparison; docs/amptorch.md.

Nothing here imports it but on request, and its training runs in a process of its own.
"""
