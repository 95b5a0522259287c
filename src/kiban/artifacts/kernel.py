"""How numeric kernels are compiled, in every room that has some."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles `function` at its first call, to run without the interpreter's lock. The machine code is kept beside
    the source, or in the user's cache; where neither may be written (read-only installs), it is compiled in each
    process."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
