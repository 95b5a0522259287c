"""Rotary position embedding on interleaved pairs, as DeepSeek-V3's checkpoints have it (`rope_interleave`).

YaRN (arXiv 2309.00071) lengthens the context of a trained model: fast pairs keep their frequency, slow ones are
stretched.
"""

import math

import torch
from torch import Tensor

from kiban.model.config import ModelConfig, Yarn
from kiban.model.layers import wide


def rope_tables(positions_L: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, [L, R/2] float32: the angle of pair i at position p is p * theta**(-2i/R) (arXiv 2104.09864),
    with YaRN's frequencies and magnitude where the configuration has it."""
    dim, yarn = config.qk_rope_head_dim, config.rope_scaling
    pairs = torch.arange(0, dim, 2, dtype=torch.float32, device=positions_L.device)
    frequencies = config.rope_theta ** (-pairs / dim)
    magnitude = 1.0
    if yarn is not None:
        slowest, fastest = _stretched_pairs(yarn, dim, config.rope_theta)
        ramp = ((torch.arange(dim // 2, device=positions_L.device) - slowest) / max(fastest - slowest, 1e-3)).clamp(
            0, 1
        )
        frequencies = frequencies * (1 - ramp) + frequencies / yarn.factor * ramp
        magnitude = _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    angles = positions_L.float()[:, None] * frequencies
    return angles.cos() * magnitude, angles.sin() * magnitude


def softmax_scale(config: ModelConfig) -> float:
    """What attention's logits are multiplied by: 1/sqrt(qk dim), times YaRN's temperature (mscale squared)."""
    scale: float = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    if config.rope_scaling is not None:
        scale *= _mscale(config.rope_scaling.factor, config.rope_scaling.mscale_all_dim) ** 2
    return scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., L, dim]: the pairs (x0, x1), (x2, x3) ... turned by the angles of `cos`, `sin` [L, dim/2]."""
    even, odd = wide(x[..., 0::2]), wide(x[..., 1::2])
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _stretched_pairs(yarn: Yarn, dim: int, theta: float) -> tuple[int, int]:
    """Pairs up to the first keep their frequency (they turn `beta_fast` times within the original context), from the
    second on they are stretched (fewer than `beta_slow` turns)."""

    def pair_with(turns: float) -> float:
        return dim * math.log(yarn.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    return max(math.floor(pair_with(yarn.beta_fast)), 0), min(math.ceil(pair_with(yarn.beta_slow)), dim - 1)


def _mscale(factor: float, weight: float) -> float:
    """0.1 m ln(s) + 1 (arXiv 2309.00071, section 3.4)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
