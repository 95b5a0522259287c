"""Causal softmax attention.

B batch, H heads, L queries, S keys, K query and key dim, V value dim; N = B x H.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries taken together: more make fewer operations, and more of the square that nobody needs, which is cheaper where
# products are faster.
BLOCK = {torch.float32: 64, torch.bfloat16: 128}
LONGEST = 2048  # beyond it, keeping the weights for the backward pass would take more memory than all else


class _BlockedAttention(torch.autograd.Function):
    """A block of queries against the keys up to its end: half of the square is never computed. PyTorch's own kernel for
    CPUs computes all of it up to 512 keys; this one took 0.7 of its time in float32 and 0.4 in bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, scale: float, document_BS: Tensor | None
    ) -> Tensor:
        B, H, L, _ = q_BHLK.shape
        S = k_BHSK.shape[2]
        q, k, v = ((x.reshape(B * H, x.shape[2], -1)) for x in (q_BHLK * scale, k_BHSK, v_BHSV))
        out_NLV = v.new_empty(B * H, L, v.shape[-1])
        weights = []
        block = BLOCK.get(q.dtype, 64)
        later = torch.full((block, block), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        for start, end in _blocks(L, block):
            first, last = start + S - L, end + S - L
            x = torch.bmm(q[:, start:end], k[:, :last].mT)
            x[:, :, first:] += later[: end - start, : end - start]
            if document_BS is not None:
                others = document_BS[:, first:last, None] != document_BS[:, None, :last]
                x.view(B, H, end - start, last).masked_fill_(others[:, None], -torch.inf)
            weights.append(torch.softmax(x, -1, out=x))
            torch.bmm(weights[-1], v[:, :last], out=out_NLV[:, start:end])
        ctx.save_for_backward(q, k, v, out_NLV, *weights)
        ctx.scale, ctx.heads = scale, (B, H)
        return out_NLV.view(B, H, L, -1)

    @staticmethod
    def backward(ctx: Any, dout_BHLV: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out_NLV, *weights = ctx.saved_tensors
        dout = dout_BHLV.reshape(out_NLV.shape)
        mean_NL1 = (dout * out_NLV).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for weight, (start, end) in zip(weights, _blocks(q.shape[1], BLOCK.get(q.dtype, 64)), strict=True):
            d, last = dout[:, start:end], weight.shape[-1]
            dv[:, :last] += torch.bmm(weight.mT, d)
            dx = torch.bmm(d, v[:, :last].mT).sub_(mean_NL1[:, start:end]).mul_(weight)
            torch.bmm(dx, k[:, :last], out=dq[:, start:end])
            dk[:, :last] += torch.bmm(dx.mT, q[:, start:end])
        dq, dk, dv = (x.unflatten(0, ctx.heads) for x in (dq.mul_(ctx.scale), dk, dv))
        return dq, dk, dv, None, None


def _blocks(length: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, length)) for start in range(0, length, block)]


def causal_attention(
    q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, scale: float, document_BS: Tensor | None = None
) -> Tensor:
    """[B, H, L, V]: the queries are those of the last L of S positions, each sees the keys up to its own; only those of
    its own document, where `document_BS` numbers them."""
    L, S = q_BHLK.shape[2], k_BHSK.shape[2]
    if q_BHLK.is_cpu and q_BHLK.requires_grad and S <= LONGEST:
        return _BlockedAttention.apply(q_BHLK, k_BHSK, v_BHSV, scale, document_BS)
    if L == S and document_BS is None:
        return F.scaled_dot_product_attention(q_BHLK, k_BHSK, v_BHSV, is_causal=True, scale=scale)
    mask = torch.ones(L, S, dtype=torch.bool, device=q_BHLK.device).tril(S - L)
    if document_BS is not None:
        mask = mask & (document_BS[:, None, S - L :, None] == document_BS[:, None, None, :])
    return F.scaled_dot_product_attention(q_BHLK, k_BHSK, v_BHSV, attn_mask=mask, scale=scale)
