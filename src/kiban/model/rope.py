"""Rotary position embedding on interleaved pairs, as DeepSeek-V3's checkpoints have it (`rope_interleave`)."""

import torch
from torch import Tensor


def rope_tables(positions_L: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, [L, dim/2] float32: the angle of pair i at position p is p * theta**(-2i/dim) (arXiv 2104.09864)."""
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=positions_L.device) / dim)
    angles = positions_L.float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., L, dim]: the pairs (x0, x1), (x2, x3) ... turned by the angles of `cos`, `sin` [L, dim/2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
