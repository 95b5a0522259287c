"""Mixture of experts: sigmoid routing with a balancing bias (arXiv 2408.15664), sorted dispatch, a shared expert.

T tokens, D hidden, E experts, F expert width, K experts a token, X = T K choices, P rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiban.model.config import ModelConfig
from kiban.model.grouped import grouped_linear
from kiban.model.layers import Linear, wide

# Rows of an expert are filled up with zeros to a multiple of this. In bfloat16 a CPU's matrix library makes code anew
# for every size that it meets, which costs more than the product; a GPU's grouped product wants 16 bytes.
ALIGNMENT = {torch.bfloat16: 16}


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width)
        self.up_proj = Linear(hidden, width)
        self.down_proj = Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Chooses K experts a token by sigmoid score plus bias; the weights come from the scores alone. In float32."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [T, K] float32, chosen experts [T, K], and all scores [T, E]."""
        c = self.config
        score_TE = F.linear(wide(x_TD), wide(self.weight)).sigmoid()
        chosen_TK = self.choose(score_TE)
        weight_TK = score_TE.gather(1, chosen_TK)
        if c.norm_topk_prob:
            weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)
        return weight_TK * c.routed_scaling_factor, chosen_TK, score_TE

    @torch.no_grad()
    def choose(self, score_TE: Tensor) -> Tensor:
        """The experts of each token, [T, K]."""
        c = self.config
        choice_TE = score_TE + self.e_score_correction_bias
        if c.n_group > 1:  # only the groups with the largest sums of their two best experts are eligible
            by_group = choice_TE.view(len(score_TE), c.n_group, -1)
            best = by_group.topk(min(2, by_group.shape[-1]), dim=-1).values.sum(-1)
            eligible = torch.zeros_like(best).scatter_(1, best.topk(c.topk_group, dim=-1).indices, 1.0).bool()
            choice_TE = by_group.masked_fill(~eligible[..., None], 0.0).flatten(1)
        return choice_TE.topk(c.num_experts_per_tok, dim=-1).indices


@dataclass(frozen=True)
class Rows:
    """Where the X = T K choices go among P rows sorted by expert."""

    order_X: Tensor  # the choices, sorted by expert
    place_X: Tensor  # the row of each, in that order
    token_P: Tensor  # whose token each row is; T where it fills a group up
    ends_E: Tensor  # int32: before which row each expert's end


def dispatch(chosen_TK: Tensor, counts_E: Tensor, alignment: int) -> Rows:
    """Rows sorted by expert, each expert's number a multiple of `alignment`. P is X, and as many more as that can take:
    it does not depend on the choices, so that nobody waits for them."""
    T, K = chosen_TK.shape
    (E,) = counts_E.shape
    order_X = chosen_TK.flatten().argsort(stable=True)
    expert_X = chosen_TK.flatten()[order_X]
    ends_E = ((counts_E + alignment - 1) // alignment * alignment).cumsum(0)
    shift_E = torch.cat([ends_E.new_zeros(1), ends_E[:-1]]) - (counts_E.cumsum(0) - counts_E)
    place_X = torch.arange(T * K, device=order_X.device) + shift_E[expert_X]
    token_P = order_X.new_full((T * K + E * (alignment - 1),), T).index_copy_(0, place_X, order_X // K)
    return Rows(order_X, place_X, token_P, ends_E.int())


class Experts(nn.Module):
    """All routed experts' weights, stacked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, d, f = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))

    def forward(self, x_PD: Tensor, weight_P: Tensor, ends_E: Tensor) -> Tensor:
        """x_PD: rows sorted by expert, those of expert e ending before row `ends_E[e]`; what comes out is multiplied by
        `weight_P`, before the last product, where rows are shorter."""
        return self.of(self.gate_up_proj, self.down_proj, x_PD, weight_P, ends_E)

    @staticmethod
    def of(gate_up_EOD: Tensor, down_EDF: Tensor, x_PD: Tensor, weight_P: Tensor, ends_E: Tensor) -> Tensor:
        """As `forward`, of the experts that these are the weights of."""
        gate_PF, up_PF = grouped_linear(x_PD, gate_up_EOD.to(x_PD.dtype), ends_E).chunk(2, dim=-1)
        hidden_PF = F.silu(gate_PF) * up_PF * weight_P[:, None].to(x_PD.dtype)
        return grouped_linear(hidden_PF, down_EDF.to(x_PD.dtype), ends_E)


class MoE(nn.Module):
    """`load_E` counts how many tokens went to each expert since `update_bias` was last called."""

    load_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        shared = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = MLP(config.hidden_size, shared) if shared else None
        self.keeps_balance = False
        self.balance: Tensor | None = None  # the balance loss of the last forward pass
        # Sums over whoever holds other tokens of the same sequences; set from outside where they are cut.
        self.over_sequence: Callable[[Tensor], Tensor] = lambda counts_BE: counts_BE
        self.register_buffer("load_E", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_TD = x_BLD.flatten(0, 1)
        weight_TK, chosen_TK, score_TE = self.gate(x_TD)
        counts_E = torch.zeros_like(self.load_E).scatter_add_(
            0, chosen_TK.flatten(), torch.ones_like(chosen_TK.flatten())
        )
        if self.training:
            self.load_E += counts_E
        if self.keeps_balance:
            by_row = [x.view(*x_BLD.shape[:2], -1) for x in (score_TE, chosen_TK)]
            self.balance = balance_loss(by_row[0], by_row[1], self.over_sequence)
        return self.mixed(x_TD, weight_TK, chosen_TK, counts_E).view_as(x_BLD)

    def mixed(self, x_TD: Tensor, weight_TK: Tensor, chosen_TK: Tensor, counts_E: Tensor) -> Tensor:
        """What the chosen experts and the shared one make of each token, [T, D]. `counts_E` tokens go to each expert.
        Replaced from outside where experts lie elsewhere."""
        rows = dispatch(chosen_TK, counts_E, ALIGNMENT.get(x_TD.dtype, 1))
        weight_P = torch.zeros_like(rows.token_P, dtype=weight_TK.dtype).index_copy(
            0, rows.place_X, weight_TK.flatten()[rows.order_X]
        )
        padded = F.pad(x_TD, (0, 0, 0, 1))  # row T, which fills the groups up, is zero
        out_PD = self.experts(padded[rows.token_P], weight_P, rows.ends_E)
        out_TD = torch.zeros_like(padded).index_add(0, rows.token_P, out_PD)[:-1]
        if self.shared_experts is not None:
            out_TD = out_TD + self.shared_experts(x_TD)
        return out_TD

    def taken_balance(self) -> Tensor:
        """The balance loss of the last forward pass, which is forgotten, and its graph with it."""
        assert self.balance is not None
        balance, self.balance = self.balance, None
        return balance

    @torch.no_grad()
    def update_bias(self, rate: float) -> Tensor:
        """Raises the bias of experts with less than the mean load, lowers that of the others.

        Gives the load, and starts to count anew.
        """
        load_E = self.load_E.clone()
        self.gate.e_score_correction_bias += rate * (load_E.float().mean() - load_E.float()).sign()
        self.load_E.zero_()
        return load_E


def balance_loss(
    score_BLE: Tensor, chosen_BLK: Tensor, over_sequence: Callable[[Tensor], Tensor] = lambda counts_BE: counts_BE
) -> Tensor:
    """How unevenly the experts are used within each sequence, 1 if evenly, mean over the batch (DeepSeek-V3, arXiv
    2412.19437, section 2.1.2, equations 17 to 20, without the weight). Where L are not all tokens of a sequence,
    `over_sequence` gives the counts in all of it, and the sum of what the parts give is the loss."""
    num_experts, chosen = score_BLE.shape[-1], chosen_BLK.shape[-1]
    share_BLE = score_BLE / score_BLE.sum(-1, keepdim=True)
    counts_BE = torch.zeros_like(share_BLE[:, 0]).scatter_add_(
        1, chosen_BLK.flatten(1), torch.ones_like(chosen_BLK.flatten(1), dtype=share_BLE.dtype)
    )
    counts_BE = over_sequence(counts_BE)
    choices_B1 = counts_BE.sum(-1, keepdim=True)  # of all experts and tokens of a sequence
    share_BE = share_BLE.sum(1) / (choices_B1 / chosen)
    return (counts_BE * num_experts / choices_B1 * share_BE).sum(-1).mean()
