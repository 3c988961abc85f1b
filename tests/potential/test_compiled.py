from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CALLER = """
from ampflow.potential.compiled import entry
from callee import seven
@entry
def call():
    return seven()
if __name__ == "__main__":
    print(call())
"""
_CALLEE = """
from ampflow.potential.compiled import helper
@helper
def seven():
    return {}
"""


# What is kept on disk is not used once a module has changed that the called function's file
# merely imports.
@pytest.mark.slow
def test_a_changed_helper_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(_CALLER)
    for number in (7, 8):
        (tmp_path / "callee.py").write_text(_CALLEE.format(number))
        command = [sys.executable, str(tmp_path / "caller.py")]
        assert subprocess.run(command, check=True, capture_output=True).stdout == b"%d\n" % number
    assert list(tmp_path.glob("__pycache__/caller.call_*"))
