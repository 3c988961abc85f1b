"""How functions are compiled, and when a result kept on disk is out of date."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding  # type: ignore[import-untyped]
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys

from ampflow.digests import digest

__all__ = ["called", "entry", "helper", "inlined"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_compile: Any = numba.njit  # numba's own type knows nothing of vectors
_COMMON = {"nogil": True, "error_model": "numpy"}
_PROCESSOR = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}".encode()
_COMMON_SOURCES = [Path(__file__), Path(__file__).with_name("simd.py")]
_INNER = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class _Cache(FunctionCache):
    """Numba's, which loads kernels without what only compiling needs: a third of a second."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # all that machine code refers to
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


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
    compiled = _compile(function, **_COMMON)
    with suppress(RuntimeError):  # "no locator available": a machine that cannot be written to
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return cast(_Function, compiled)


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
