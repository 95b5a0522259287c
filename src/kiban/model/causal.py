"""Causal softmax attention.

B batch, H heads, L length, S keys, K query and key dim, V value dim; N = B x H.
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
        ctx: Any, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLV: Tensor, scale: float, document_BL: Tensor | None
    ) -> Tensor:
        B, H, L, _ = q_BHLK.shape
        q, k, v = ((x.reshape(B * H, L, -1)) for x in (q_BHLK * scale, k_BHLK, v_BHLV))
        out_NLV = torch.empty_like(v)
        weights = []
        block = BLOCK.get(q.dtype, 64)
        later = torch.full((block, block), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        for start, end in _blocks(L, block):
            x = torch.bmm(q[:, start:end], k[:, :end].mT)
            x[:, :, start:] += later[: end - start, : end - start]
            if document_BL is not None:
                others = document_BL[:, start:end, None] != document_BL[:, None, :end]
                x.view(B, H, end - start, end).masked_fill_(others[:, None], -torch.inf)
            weights.append(torch.softmax(x, -1, out=x))
            torch.bmm(weights[-1], v[:, :end], out=out_NLV[:, start:end])
        ctx.save_for_backward(q, k, v, out_NLV, *weights)
        ctx.scale, ctx.shape = scale, (B, H, L, -1)
        return out_NLV.view(B, H, L, -1)

    @staticmethod
    def backward(ctx: Any, dout_BHLV: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out_NLV, *weights = ctx.saved_tensors
        dout = dout_BHLV.reshape(out_NLV.shape)
        mean_NL1 = (dout * out_NLV).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for weight, (start, end) in zip(weights, _blocks(q.shape[1], BLOCK.get(q.dtype, 64)), strict=True):
            d = dout[:, start:end]
            dv[:, :end] += torch.bmm(weight.mT, d)
            dx = torch.bmm(d, v[:, :end].mT).sub_(mean_NL1[:, start:end]).mul_(weight)
            torch.bmm(dx, k[:, :end], out=dq[:, start:end])
            dk[:, :end] += torch.bmm(dx.mT, q[:, start:end])
        return dq.mul_(ctx.scale).view(ctx.shape), dk.view(ctx.shape), dv.view(ctx.shape), None, None


def _blocks(length: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, length)) for start in range(0, length, block)]


def causal_attention(
    q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, scale: float, document_BL: Tensor | None = None
) -> Tensor:
    """[B, H, L, V]: the queries are those of the last L of S positions, each sees the keys up to its own; only those of
    its own document, where `document_BL` numbers them (then S is L)."""
    L, S = q_BHLK.shape[2], k_BHSK.shape[2]
    assert document_BL is None or L == S, "documents are told apart in training, where nothing is cached"
    if q_BHLK.is_cpu and q_BHLK.requires_grad and L == S <= LONGEST:
        return _BlockedAttention.apply(q_BHLK, k_BHSK, v_BHSV, scale, document_BL)
    if L == S and document_BL is None:
        return F.scaled_dot_product_attention(q_BHLK, k_BHSK, v_BHSV, is_causal=True, scale=scale)
    mask = torch.ones(L, S, dtype=torch.bool, device=q_BHLK.device).tril(S - L)
    if document_BL is not None:
        mask = mask & (document_BL[:, None, :, None] == document_BL[:, None, None, :])
    return F.scaled_dot_product_attention(q_BHLK, k_BHSK, v_BHSV, attn_mask=mask, scale=scale)
