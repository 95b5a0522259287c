"""How this room's kernels are compiled."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles at the first call, to run without the interpreter's lock; the machine code is kept beside the source or
    in the user's cache. Where neither may be written, each process compiles."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
