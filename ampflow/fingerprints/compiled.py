"""How functions are compiled: entry points kept on disk, helpers without Python wrappers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from ampflow.digests import digest

__all__ = ["entry", "helper", "inlined"]

Function = TypeVar("Function", bound=Callable[..., Any])

_compile: Any = numba.njit
_COMMON = {"nogil": True, "error_model": "numpy"}
_UNWRAPPED = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


# Numba looks for changes in a function's own file only, and not in what the function calls. So the
# name under which its code is kept on disk tells all sources.
_SOURCES = digest(*(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def entry(function: Function) -> Function:
    """Compile a function that Python calls; keep the result on disk.

    It is kept beside the module, else in the user's cache folder, else (a read-only machine) not.
    """
    function.__qualname__ += f"-{_SOURCES}"
    try:
        return cast(Function, _compile(function, cache=True, **_COMMON))
    except RuntimeError:  # numba: "no locator available"
        return cast(Function, _compile(function, **_COMMON))


def helper(function: Function) -> Function:
    """Compile a function that only compiled code calls."""
    return cast(Function, _compile(function, **_UNWRAPPED))


def inlined(function: Function) -> Function:
    """Compile a function into each of its callers."""
    return cast(Function, _compile(function, forceinline=True, **_UNWRAPPED))
