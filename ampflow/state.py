"""Where ampflow remembers what runs: a folder in the user's home, seen from all nodes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["state_folder"]


def state_folder() -> Path:
    """Return the folder, which need not exist yet."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ampflow"
