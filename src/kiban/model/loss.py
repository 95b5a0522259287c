"""Cross-entropy that never holds all logits: a chunk of tokens at a time, with its gradients taken on the way.

T tokens, D hidden, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of a chunk, all tokens together: few enough to stay in a CPU's cache, or enough to fill a GPU.
CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**28}


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=h_TD.device)
        dh_TD, dw_VD = torch.empty_like(h_TD), torch.zeros_like(w_VD)
        w = w_VD.to(h_TD.dtype)
        for start, stop in _chunks(h_TD, w):
            h, target = h_TD[start:stop], target_T[start:stop, None]
            logits = (h @ w.T).float()
            wanted, highest = logits.gather(1, target)[:, 0], logits.amax(-1)
            p = torch.softmax(logits, -1, out=logits)
            # The largest probability is 1 over the normaliser, and at least 1/V: its logarithm loses nothing.
            total += (highest - p.amax(-1).log() - wanted).sum()
            p = p.scatter_add_(1, target, torch.full_like(wanted, -1.0)[:, None]).to(h.dtype)
            torch.mm(p, w, out=dh_TD[start:stop])
            dw_VD += p.T @ h
        ctx.save_for_backward(dh_TD, dw_VD)
        ctx.scale = 1.0 / len(h_TD)
        return total * ctx.scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dh_TD, dw_VD = ctx.saved_tensors
        grad = grad * ctx.scale
        return dh_TD * grad.to(dh_TD.dtype), dw_VD * grad, None


def linear_cross_entropy(h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
    """Mean over tokens of -log softmax(h @ w.T)[target], in nats, float32. Products are in the dtype of `h_TD`,
    what is summed and exponentiated in float32."""
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(h_TD, w_VD, target_T)
    w = w_VD.to(h_TD.dtype)
    losses = [
        F.cross_entropy((h_TD[start:stop] @ w.T).float(), target_T[start:stop], reduction="sum")
        for start, stop in _chunks(h_TD, w)
    ]
    return torch.stack(losses).sum() / len(h_TD)


def _chunks(h_TD: Tensor, w_VD: Tensor) -> Iterator[tuple[int, int]]:
    rows = max(1, CHUNK_LOGITS[h_TD.device.type] // len(w_VD))
    for start in range(0, len(h_TD), rows):
        yield start, min(start + rows, len(h_TD))
