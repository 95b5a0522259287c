"""Cross-entropy that never holds all logits: a chunk of tokens at a time, with its gradients taken on the way.

T tokens, D hidden, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kiban.model.layers import wide
from kiban.model.sums import add_to

# Logits of a chunk, all tokens together: few enough to stay in a CPU's cache, or enough to fill a GPU.
CHUNK_LOGITS = {"cpu": 2**21, "other": 2**28}


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
        total = wide(h_TD.new_zeros(()))
        dh_TD, dw_VD = torch.empty_like(h_TD), torch.zeros_like(w_VD)
        w = w_VD.to(h_TD.dtype)
        chunks = _chunks(h_TD, w)
        # Taken once: what is asked for anew in each round is paged in anew.
        product = h_TD.new_empty(chunks[0][1], len(w))
        all_logits = product if product.dtype == total.dtype else torch.empty_like(product, dtype=total.dtype)
        dw_part = torch.empty_like(w)
        for start, stop in chunks:
            h, target = h_TD[start:stop], target_T[start:stop, None]
            low, logits = product[: stop - start], all_logits[: stop - start]
            torch.mm(h, w.T, out=low)
            if product is not all_logits:
                logits.copy_(low)
            wanted, highest = logits.gather(1, target)[:, 0], logits.amax(-1)
            torch.softmax(logits, -1, out=logits)
            # The largest probability is 1 over the normaliser, and at least 1/V: its logarithm loses nothing.
            total += (highest - logits.amax(-1).log() - wanted).sum()
            logits.scatter_add_(1, target, torch.full_like(wanted, -1.0)[:, None])
            if product is not all_logits:
                low.copy_(logits)
            torch.mm(low, w, out=dh_TD[start:stop])
            if dw_part.dtype == dw_VD.dtype:
                torch.addmm(dw_VD, low.T, h, out=dw_VD)
            else:
                add_to(dw_VD, torch.mm(low.T, h, out=dw_part))
        ctx.save_for_backward(dh_TD, dw_VD)
        ctx.scale = 1.0 / len(h_TD)
        return total * ctx.scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dh_TD, dw_VD = ctx.saved_tensors
        grad = grad * ctx.scale
        return dh_TD * grad.to(dh_TD.dtype), dw_VD * grad, None


def linear_cross_entropy(h_TD: Tensor, w_VD: Tensor, target_T: Tensor) -> Tensor:
    """Mean over tokens of -log softmax(h @ w.T)[target], in nats. Products are in the dtype of `h_TD`, what is summed
    and exponentiated, and the result, in float32 (float64 where `h_TD` is)."""
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(h_TD, w_VD, target_T)
    w = w_VD.to(h_TD.dtype)
    losses = [
        F.cross_entropy(wide(h_TD[start:stop] @ w.T), target_T[start:stop], reduction="sum")
        for start, stop in _chunks(h_TD, w)
    ]
    return torch.stack(losses).sum() / len(h_TD)


def _chunks(h_TD: Tensor, w_VD: Tensor) -> list[tuple[int, int]]:
    rows = max(1, CHUNK_LOGITS["cpu" if h_TD.is_cpu else "other"] // len(w_VD))
    return [(start, min(start + rows, len(h_TD))) for start in range(0, len(h_TD), rows)]
