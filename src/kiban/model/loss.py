"""Cross-entropy that never holds all logits: a chunk of tokens at a time, with its gradients taken on the way."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024  # tokens


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=h_TD.device)
        dh_TD, dw_VD = torch.empty_like(h_TD), torch.zeros_like(w_VD)
        scale = 1.0 / len(h_TD)
        for start in range(0, len(h_TD), CHUNK):
            h, target = h_TD[start : start + CHUNK], target_T[start : start + CHUNK]
            logits = (h @ w_VD.T).float()
            normaliser = logits.logsumexp(-1)
            total += (normaliser - logits.gather(1, target[:, None])[:, 0]).sum()
            slope = logits.sub_(normaliser[:, None]).exp_()
            slope.scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1.0, dtype=slope.dtype))
            slope = slope.mul_(scale).to(h.dtype)
            torch.mm(slope, w_VD, out=dh_TD[start : start + CHUNK])
            dw_VD.addmm_(slope.T, h)
        ctx.save_for_backward(dh_TD, dw_VD)
        return total * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dh_TD, dw_VD = ctx.saved_tensors
        return dh_TD * grad, dw_VD * grad, None


def linear_cross_entropy(h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
    """Mean over tokens of -log softmax(h @ w.T)[target], in nats, float32."""
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(h_TD, w_VD, target_T)
    losses = [
        torch.nn.functional.cross_entropy((h @ w_VD.T).float(), t, reduction="sum")
        for h, t in zip(h_TD.split(CHUNK), target_T.split(CHUNK), strict=True)
    ]
    return torch.stack(losses).sum() / len(h_TD)
