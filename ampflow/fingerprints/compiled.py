"""How functions are compiled: entry points kept on disk, helpers without Python wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["entry", "helper", "inlined"]

Function = TypeVar("Function", bound=Callable[..., Any])

_compile: Any = numba.njit
_COMMON = {"nogil": True, "error_model": "numpy"}
_UNWRAPPED = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def entry(function: Function) -> Function:
    """Compile a function that Python calls; keep the result on disk.

    It is kept beside the module, else in the user's cache folder, else (a read-only machine) not.
    """
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
