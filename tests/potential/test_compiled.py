from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from ampflow.compiled import called, entry

_CALLER = """
from ampflow.compiled import entry
from callee import seven
@entry
def call():
    return seven()
if __name__ == "__main__":
    print(call())
"""
_CALLEE = """
from ampflow.compiled import helper
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


# What only compiling needs takes longer to import than a kernel that is kept takes to load.
def test_a_kept_kernel_is_loaded_without_the_compilers_registries(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(_CALLER + "    import sys\n    print(*sys.modules)\n")
    (tmp_path / "callee.py").write_text(_CALLEE.format(7))
    command = [sys.executable, str(tmp_path / "caller.py")]
    for kept in (False, True):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        number, modules = done.stdout.splitlines()
        assert number == "7"
        assert ("numba.np.arraymath" in modules.split()) is not kept


# Nodes with other processors share the folder of what is kept, and none of its files.
def test_each_kind_of_processor_has_its_own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for processor in (b"zen4 +avx512f", b"skylake"):
        monkeypatch.setattr("ampflow.compiled._PROCESSOR", processor)

        def function() -> int:
            return 1

        names.add(entry(function).py_func.__qualname__)
    assert len(names) == 2


# A disk too full to keep what was compiled does not stop it from running.
def test_called_on_a_full_disk() -> None:
    calls: list[int] = []

    def compiled(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return number

    assert called(compiled, 5) == 5
