"""Expert parallelism: each rank of a group holds some of the experts, and tokens travel to those that they chose and
back (GShard, arXiv 2006.16668). No expert has a capacity: nothing is dropped, however uneven the load.

Another way to send tokens (DeepEP, say) has the signature of `MoE.mixed`, and is put in its place.

T tokens, D hidden, E experts, K experts a token, X = T K choices, R ranks, N experts here, Y rows that come here.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from kiban.model.moe import ALIGNMENT, MoE, dispatch


class ExpertParallel:
    """Takes the place of `MoE.mixed`. `balanced`: the routing is known to be `balanced_choice`, so that sizes are known
    without asking the device (for dry runs on fake tensors)."""

    def __init__(self, moe: MoE, group: dist.ProcessGroup, balanced: bool = False) -> None:
        self.moe, self.group, self.balanced = moe, group, balanced

    def __call__(self, x_TD: Tensor, weight_TK: Tensor, chosen_TK: Tensor, counts_E: Tensor) -> Tensor:
        moe, ranks = self.moe, self.group.size()
        ours = dispatch(chosen_TK, counts_E, 1)
        given_RN = counts_E.view(ranks, -1)
        taken_RN = torch.empty_like(given_RN)
        dist.all_to_all_single(taken_RN, given_RN.contiguous(), group=self.group)
        given, taken = self._sizes(given_RN, taken_RN, chosen_TK.numel())

        pending: list[dist.Work] = []
        sent = (taken, given, self.group, pending)
        x_YD = _AllToAll.apply(x_TD[ours.token_P], *sent)
        weight_Y = _AllToAll.apply(weight_TK.flatten()[ours.order_X], *sent)
        shared_TD = moe.shared_experts(x_TD) if moe.shared_experts is not None else None  # while they are on their way
        _wait(pending)

        expert_N = torch.arange(taken_RN.shape[1], device=x_TD.device)
        expert_Y = expert_N.repeat(ranks).repeat_interleave(taken_RN.flatten(), output_size=sum(taken))
        rows = dispatch(expert_Y[:, None], taken_RN.sum(0), ALIGNMENT.get(x_TD.dtype, 1))
        weight_P = torch.zeros_like(rows.token_P, dtype=weight_Y.dtype).index_copy(
            0, rows.place_X, weight_Y[rows.order_X]
        )
        padded = F.pad(x_YD, (0, 0, 0, 1))  # as in `MoE.mixed`
        out_PD = moe.experts(padded[rows.token_P], weight_P, rows.ends_E)
        out_YD = torch.zeros_like(x_YD).index_copy(0, rows.order_X, out_PD[rows.place_X])

        out_XD = _AllToAll.apply(out_YD, given, taken, self.group, pending)
        _wait(pending)
        out_TD = torch.zeros_like(x_TD).index_add(0, ours.token_P, out_XD)
        return out_TD if shared_TD is None else out_TD + shared_TD

    def _sizes(self, given_RN: Tensor, taken_RN: Tensor, choices: int) -> tuple[list[int], list[int]]:
        """Rows to each rank, and from each. The one moment at which the host waits for the device."""
        if self.balanced:
            experts = given_RN.numel()
            each = [choices // experts + (expert < choices % experts) for expert in range(experts)]
            given = [sum(each[i : i + given_RN.shape[1]]) for i in range(0, experts, given_RN.shape[1])]
            return given, [given[self.group.rank()]] * len(given)
        given, taken = torch.stack([given_RN.sum(1), taken_RN.sum(1)]).tolist()
        return given, taken


def balanced_choice(x_TD: Tensor, experts: int, chosen: int) -> Tensor:
    """[T, K]: every expert as often as every other, as far as that goes."""
    choices = torch.arange(len(x_TD) * chosen, device=x_TD.device)
    return (choices % experts).view(len(x_TD), chosen)


class _AllToAll(torch.autograd.Function):
    """Rows to the ranks of a group and from them. Begun, not finished: see `pending`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, taken: list[int], given: list[int], group: dist.ProcessGroup, pending: list[dist.Work]
    ) -> Tensor:
        ctx.sizes, ctx.group = (taken, given), group
        out = x.new_empty(sum(taken), *x.shape[1:])
        # What is sent has to live until it is.
        ctx.sent = x.contiguous()
        pending.append(dist.all_to_all_single(out, ctx.sent, taken, given, group=group, async_op=True))
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None, None]:
        taken, given = ctx.sizes
        ctx.sent = None
        dx = dout.new_empty(sum(given), *dout.shape[1:])
        dist.all_to_all_single(dx, dout.contiguous(), given, taken, group=ctx.group)
        return dx, None, None, None, None


def _wait(pending: list[dist.Work]) -> None:
    while pending:
        pending.pop().wait()
