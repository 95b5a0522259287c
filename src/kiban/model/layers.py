"""The two layers that everything is made of. Weights are kept in float32 and used in the dtype of what they meet: the
model computes in the dtype in which its embeddings leave the embedding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def wide(x: Tensor) -> Tensor:
    """In the dtype in which sums are taken: float32, or float64 where that is what comes."""
    return x if x.dtype == torch.float64 else x.float()


class Linear(nn.Linear):
    """Without a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x over its root mean square (arXiv 1910.07467), times a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """As F.rms_norm, with its gradient in the fewest passes over memory, which is what it costs on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        summed = wide(x)
        inverse = (torch.linalg.vector_norm(summed, dim=-1, keepdim=True).square_() / x.shape[-1] + eps).rsqrt_()
        y = summed * inverse
        ctx.save_for_backward(x, inverse, weight)
        return y.mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inverse, weight = ctx.saved_tensors
        dwide = wide(dy)
        y = x * inverse
        dweight = (dwide * y).flatten(0, -2).sum(0)
        dnormal = dwide * weight
        mean = torch.linalg.vecdot(dnormal, y)[..., None] / x.shape[-1]
        return dnormal.sub_(y.mul_(mean)).mul_(inverse).to(x.dtype), dweight, None
