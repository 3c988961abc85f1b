"""How functions are compiled, and when a result kept on disk is out of date."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import binding  # type: ignore[import-untyped]
from numba.np import linalg

from ampflow.digests import digest

__all__ = ["called", "entry", "helper", "inlined"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compile: Any = numba.njit  # numba's own type knows nothing of vectors
_COMMON = {"nogil": True, "error_model": "numpy"}
_PROCESSOR = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}".encode()
_COMMON_SOURCES = [Path(__file__), Path(__file__).with_name("simd.py")]
_INNER = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _import_without_blas() -> None:
    """Import what numba itself would import later, and not scipy.linalg with it.

    Numba does so to see whether it is there. It is, no kernel of ours needs it, and that takes
    longer than to load all of them.
    """
    kept, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = kept


_import_without_blas()


def entry(function: _Function) -> _Function:
    """Compile a function that Python calls; keep the result on disk where that can be written.

    Numba compiles anew when the function's own file has changed, but not when what it calls lies
    in another file. Files are kept under the function's name, so the name gets a digest of all
    modules in its folder, and of those that every kernel uses. The processor is in it, too: nodes
    of two kinds that compile at once in a shared folder would write into each other's files.
    """
    folder = Path(function.__code__.co_filename).parent
    sources = [*_COMMON_SOURCES, *sorted(folder.glob("*.py"))]
    function.__qualname__ += "_" + digest(_PROCESSOR, *(path.read_bytes() for path in sources))
    try:
        compiled: _Function = _compile(function, cache=True, **_COMMON)
    except RuntimeError:  # numba: "no locator available", a machine that cannot be written to
        compiled = _compile(function, **_COMMON)
    return compiled


def helper(function: _Function) -> _Function:
    """Compile a function that only compiled code calls."""
    compiled: _Function = _compile(function, **_INNER)
    return compiled


def inlined(function: _Function) -> _Function:
    """Compile a function into each of its callers."""
    compiled: _Function = _compile(function, forceinline=True, **_INNER)
    return compiled


def called(function: Callable[..., Any], *args: Any) -> Any:
    """Call a compiled function, also where the disk is too full to keep it."""
    try:
        return function(*args)
    except OSError:  # it is compiled now, but was not run
        return function(*args)
