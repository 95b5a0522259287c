"""Tensor parallelism with sequences: the ranks of a group hold a part of the heads, of the widths of MLPs and of the
vocabulary, and between them a part of each sequence (Megatron-LM, arXiv 1909.08053 and 2205.05198).

What works on single tokens (norms, routers, experts, residuals) sees a rank's own tokens alone, so that to FSDP and to
expert parallelism the ranks are as good as other data; attention, MLPs and head gather the tokens before and scatter
their sums after.

B batch, N tokens of a sequence here, L tokens of a sequence, P = L over the ranks, D hidden, V vocabulary, O outputs.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from kiban.model.attention import Attention
from kiban.model.layers import Linear, wide
from kiban.model.loss import CHUNK_LOGITS
from kiban.model.moe import MLP
from kiban.model.sums import add_to
from kiban.model.transformer import Sample, Transformer
from kiban.training.context_parallel import all_gather, reduce_scatter


class Tensors:
    """The ranks of a group, and how the sequences at hand are cut among them: P tokens each. One token fewer on the
    last rank where MTP has one target fewer."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.group, self.ranks, self.rank = mesh, mesh.get_group(), mesh.size(), mesh.get_local_rank()
        self.batch = self.part = 0

    def apply(self, model: Transformer) -> list[list[nn.Module]]:
        """Cuts the weights and puts the collectives around them. Gives groups of modules that hold cut weights, for
        FSDP."""
        groups: list[list[nn.Module]] = []
        for module in model.modules():
            if isinstance(module, Attention):
                query = module.q_proj if hasattr(module, "q_proj") else module.q_b_proj
                self._split(query, 0)
                self._split(module.kv_b_proj, 0)
                self._split(module.o_proj, 1)
                module.num_heads //= self.ranks
                module.forward = self._attention(module.forward)  # type: ignore[method-assign]
                groups.append([query, module.kv_b_proj, module.o_proj])
            elif isinstance(module, MLP):
                self._split(module.gate_proj, 0)
                self._split(module.up_proj, 0)
                self._split(module.down_proj, 1)
                module.forward = self._mlp(module.forward)  # type: ignore[method-assign]
                groups.append([module])
        if model.embed_tokens is not None:
            self._cut(model.embed_tokens, 0)
            model.embed_tokens.forward = self._embedding(model.embed_tokens)  # type: ignore[method-assign]
            groups.append([model.embed_tokens])
        if model.lm_head is not None:
            self._cut(model.lm_head, 0)
            model.lm_head.forward = self._head(model.lm_head)  # type: ignore[method-assign]
            model.cross_entropy = lambda hidden_BLD, targets_BL: model.lm_head(hidden_BLD, targets_BL)  # type: ignore[method-assign]
            groups.append([model.lm_head])
        part = model.part

        def cut_part(x_BLD: Tensor | None, sample: Sample, *arguments: Any) -> Any:
            self.batch, self.part = sample.tokens_BL.shape[0], sample.tokens_BL.shape[1] // self.ranks
            return part(x_BLD, sample, *arguments)

        model.part = cut_part  # type: ignore[method-assign,assignment]
        return groups

    def gather(self, x_BND: Tensor) -> Tensor:
        """[B, ranks x P, D]; zeros at the end where the last rank has fewer. Backward, sums are scattered."""
        return _Gather.apply(x_BND, self.part, self.group)

    def scatter(self, x_BLD: Tensor, mine: int) -> Tensor:
        """[B, mine, D]: this rank's tokens of the sum over the ranks. Backward, they are gathered."""
        return _Scatter.apply(x_BLD, mine, self.part, self.group)

    def _cut(self, module: nn.Module, dim: int) -> None:
        assert isinstance(module.weight, Tensor)
        part = module.weight.detach().chunk(self.ranks, dim)[self.rank].clone()
        module.weight = nn.Parameter(DTensor.from_local(part, self.mesh, [Shard(dim)], run_check=False))

    def _split(self, linear: Linear, dim: int) -> None:
        self._cut(linear, dim)
        linear.forward = lambda x: F.linear(x, _local(linear.weight).to(x.dtype))  # type: ignore[method-assign]

    def _attention(self, inner: Any) -> Any:
        def forward(x_BND: Tensor, cos: Tensor, *arguments: Any) -> Tensor:
            return self.scatter(inner(self.gather(x_BND)[:, : len(cos)], cos, *arguments), x_BND.shape[1])

        return forward

    def _mlp(self, inner: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            x_BND = x.view(self.batch, -1, x.shape[-1])
            return self.scatter(inner(self.gather(x_BND)), x_BND.shape[1]).view_as(x)

        return forward

    def _embedding(self, embedding: nn.Embedding) -> Any:
        def forward(tokens_BL: Tensor) -> Tensor:
            weight_VD = _local(embedding.weight)
            row_BL = tokens_BL - self.rank * len(weight_VD)
            elsewhere = (row_BL < 0) | (row_BL >= len(weight_VD))
            found_BLD = F.embedding(row_BL.masked_fill(elsewhere, 0), weight_VD)
            found_BLD = found_BLD.masked_fill(elsewhere[..., None], 0.0)
            return self.scatter(found_BLD, min(self.part, tokens_BL.shape[1] - self.rank * self.part))

        return forward

    def _head(self, head: Linear) -> Any:
        def forward(hidden_BND: Tensor, targets_BL: Tensor) -> Tensor:
            hidden_TD = self.gather(hidden_BND)[:, : targets_BL.shape[1]].flatten(0, 1)
            return _VocabularyCrossEntropy.apply(hidden_TD, _local(head.weight), targets_BL.flatten(), self.group)

        return forward


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, part: int, group: dist.ProcessGroup) -> Tensor:
        ctx.given = x_BND.shape[1], part, group
        return _gathered(x_BND, part, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        return _scattered(dout, *ctx.given), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, mine: int, part: int, group: dist.ProcessGroup) -> Tensor:
        ctx.given = x_BLD.shape[1], part, group
        return _scattered(x_BLD, mine, part, group)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None]:
        length, part, group = ctx.given
        return _gathered(dout, part, group)[:, :length], None, None, None


def _gathered(x_BND: Tensor, part: int, group: dist.ProcessGroup) -> Tensor:
    B, N, D = x_BND.shape
    x_BPD = F.pad(x_BND, (0, 0, 0, part - N)).contiguous()
    out = x_BPD.new_empty(group.size() * B, part, D)
    all_gather(out, x_BPD, group)
    return out.view(-1, B, part, D).transpose(0, 1).reshape(B, -1, D)


def _scattered(x_BLD: Tensor, mine: int, part: int, group: dist.ProcessGroup) -> Tensor:
    B, L, D = x_BLD.shape
    padded = F.pad(x_BLD, (0, 0, 0, part * group.size() - L))
    by_rank = padded.view(B, group.size(), part, D).transpose(0, 1).contiguous()
    out_BPD = x_BLD.new_empty(B, part, D)
    reduce_scatter(out_BPD, by_rank.flatten(0, 1), group=group)
    return out_BPD if mine == part else out_BPD[:, :mine].contiguous()


class _VocabularyCrossEntropy(torch.autograd.Function):
    """As `linear_cross_entropy`, where each rank has the logits of its part of the vocabulary."""

    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, w_VD: Tensor, target_T: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = wide(h_TD.new_zeros(()))
        dh_TD, dw_VD = torch.empty_like(h_TD), torch.zeros_like(w_VD)
        w, size = w_VD.to(h_TD.dtype), len(w_VD)
        row_T = target_T - group.rank() * size
        rows = max(1, CHUNK_LOGITS["cpu" if h_TD.is_cpu else "other"] // size)
        for start in range(0, len(h_TD), rows):
            h, row = h_TD[start : start + rows], row_T[start : start + rows]
            here = (row >= 0) & (row < size)
            row = row.where(here, 0)[:, None]
            logits = wide(h @ w.T)
            highest = logits.amax(-1)
            dist.all_reduce(highest, dist.ReduceOp.MAX, group)
            logits = logits - highest[:, None]
            wanted = logits.gather(1, row)[:, 0].where(here, 0.0)
            weight = logits.exp_()
            sums = torch.stack([weight.sum(-1), wanted])
            dist.all_reduce(sums, group=group)
            total += (sums[0].log() - sums[1]).sum()
            probability = weight.div_(sums[0][:, None])
            probability.scatter_add_(1, row, -here.to(probability.dtype)[:, None])
            low = probability.to(h.dtype)
            dh_TD[start : start + rows] = low @ w
            add_to(dw_VD, low.T @ h)
        ctx.save_for_backward(dh_TD, dw_VD)
        ctx.scale = 1.0 / len(h_TD)
        return total * ctx.scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dh_TD, dw_VD = ctx.saved_tensors
        grad = grad * ctx.scale
        return dh_TD * grad.to(dh_TD.dtype), dw_VD * grad, None, None
