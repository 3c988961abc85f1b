from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference arrays and real structures."""
    default = Path(__file__).parents[1] / ".." / "shared"
    folder = Path(os.environ.get("AMPFLOW_SHARED", default)).resolve()
    if not (folder / "reference").is_dir():
        pytest.skip(f"no shared reference data at {folder} (set AMPFLOW_SHARED)")
    return folder
