"""The `ampflow` command."""

from ampflow.cli.app import main

__all__ = ["main"]
