"""Block-wise fp8 weights as DeepSeek-V3 was released (its README_WEIGHTS.md): e4m3, a float32 scale for each 128 x 128
block, which stands beside `X.weight` as `X.weight_scale_inv` and is what the stored values are multiplied by.

O outputs, I inputs of a linear layer.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = (128, 128)
MOST = torch.finfo(torch.float8_e4m3fn).max  # 448

QUANTIZATION_CONFIG: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": list(BLOCK),
}

# The projections of attention, MLPs and experts. The release keeps the rest in bfloat16: embedding, head, norms, the
# router, and the MTP layer's eh_proj (vLLM's deepseek_mtp.py and SGLang's deepseek_nextn.py load it as a plain linear
# layer, which has no place for a scale).
_QUANTISED = re.compile(r"\.(self_attn|mlp|shared_experts|experts\.\d+)\.\w+_proj(_with_mqa)?\.weight$")


def is_quantised(name: str) -> bool:
    return _QUANTISED.search(name) is not None


def scale_shape(shape: list[int], block: tuple[int, int] = BLOCK) -> list[int]:
    """[ceil(O / 128), ceil(I / 128)]."""
    return [math.ceil(size / edge) for size, edge in zip(shape, block, strict=True)]


def ends_in_part(shape: list[int], block: tuple[int, int] = BLOCK) -> bool:
    """Whether blocks of more than one size cover it. transformers (seen in 5.24) takes sizes over numbers of scales for
    the block when it dequantises, and refuses such weights, or scales them wrongly (144 rows as 72 and 72)."""
    return any(size > edge and size % edge for size, edge in zip(shape, block, strict=True))


def quantise(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 [O, I] and the scales, by which a block's largest magnitude is stored as 448. Edge blocks are smaller."""
    weight_OI = weight_OI.float()
    rows, columns = scale_shape(list(weight_OI.shape))
    padded = F.pad(weight_OI, (0, columns * BLOCK[1] - weight_OI.shape[1], 0, rows * BLOCK[0] - weight_OI.shape[0]))
    scale = padded.view(rows, BLOCK[0], columns, BLOCK[1]).abs().amax((1, 3)) / MOST
    scale = torch.where(scale > 0, scale, 1.0)  # of a block of zeros
    # Rounding can give 448 and a little more, for which not every version of the cast gives 448.
    stored = (weight_OI / _spread(scale, weight_OI.shape)).clamp(-MOST, MOST)
    return stored.to(torch.float8_e4m3fn), scale


def dequantise(stored_OI: Tensor, scale: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """float32 [O, I]."""
    return stored_OI.float() * _spread(scale.float(), stored_OI.shape, block)


def _spread(scale: Tensor, shape: torch.Size, block: tuple[int, int] = BLOCK) -> Tensor:
    """Each block's scale at each of its elements."""
    rows = scale.repeat_interleave(block[0], 0)[: shape[0]]
    return rows.repeat_interleave(block[1], 1)[:, : shape[1]]
