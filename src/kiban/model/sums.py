"""Sums in float32 of what was computed in lower precision."""

from torch import Tensor

ELEMENTS = 2**18  # taken together: PyTorch casts the addend first, and the cast should not leave the cache


def add_to(total: Tensor, part: Tensor) -> None:
    """`total += part`, in place; both contiguous."""
    if total.dtype == part.dtype:
        total += part
        return
    for some, more in zip(total.view(-1).split(ELEMENTS), part.view(-1).split(ELEMENTS), strict=True):
        some += more
