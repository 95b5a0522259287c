"""DeepSeek-V3 (arXiv 2412.19437) in plain PyTorch. It knows nothing of parallelism, files, or training loops.

B batch, L length, M positions of MTP, S whole length of a sequence, D hidden, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiban.model.attention import Attention, LatentCache
from kiban.model.config import ModelConfig
from kiban.model.layers import Linear, RMSNorm
from kiban.model.loss import linear_cross_entropy
from kiban.model.moe import MLP, MoE
from kiban.model.rope import rope_tables

MTP_WEIGHT = 0.3  # of the second token's loss; DeepSeek-V3's value for the first 10T tokens


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        dense = layer < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else MoE(config)

    def forward(
        self,
        x_BLD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LatentCache | None = None,
        document_BS: Tensor | None = None,
    ) -> Tensor:
        x_BLD = x_BLD + self.self_attn(self.input_layernorm(x_BLD), cos, sin, cache, document_BS)
        return x_BLD + self.mlp(self.post_attention_layernorm(x_BLD))


class MTP(nn.Module):
    """Predicts the token after the next from the next one's embedding and the present hidden state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = RMSNorm(d, eps=eps), RMSNorm(d, eps=eps)
        self.eh_proj = Linear(2 * d, d)
        self.block = Block(config, config.num_hidden_layers)
        self.norm = RMSNorm(d, eps=eps)

    def forward(
        self,
        embedded_BMD: Tensor,
        hidden_BMD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LatentCache | None = None,
        document_BS: Tensor | None = None,
    ) -> Tensor:
        joined = torch.cat([self.enorm(embedded_BMD), self.hnorm(hidden_BMD)], dim=-1)
        return self.norm(self.block(self.eh_proj(joined), cos, sin, cache, document_BS))


@dataclass(frozen=True)
class Sample:
    """What one forward pass learns from. The first M of the L tokens have a token after their target, which is what
    MTP predicts; only the last of a sequence has none."""

    tokens_BL: Tensor
    targets_BL: Tensor
    mtp_targets_BM: Tensor
    document_BS: Tensor | None = None  # a number for each document; tokens see their own alone
    cache: LatentCache | None = None  # the rest of the sequences, where this is a part of them
    mtp_cache: LatentCache | None = None


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32  # that it computes in; the weights stay in float32
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.mtp = MTP(config) if config.num_nextn_predict_layers else None

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal with `initializer_range`; the projections that write into the residual stream scaled down by
        sqrt(2 * layers) (GPT-2); norms 1."""
        down = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
                continue
            scale = down if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")) else 1.0
            nn.init.normal_(parameter, std=self.config.initializer_range * scale, generator=generator)

    def forward(self, tokens_BL: Tensor, cache: list[LatentCache] | None = None) -> Tensor:
        """Final hidden states [B, L, D], after the last norm."""
        return self.norm(self._body(tokens_BL, cache))

    def _body(
        self, tokens_BL: Tensor, cache: list[LatentCache] | None = None, document_BL: Tensor | None = None
    ) -> Tensor:
        cos, sin = self._tables(tokens_BL, cache[0] if cache else None)
        x_BLD = self.embed_tokens(tokens_BL).to(self.dtype)
        for layer, block in enumerate(self.layers):
            x_BLD = block(x_BLD, cos, sin, cache[layer] if cache else None, document_BL)
        return x_BLD

    def _tables(self, tokens_BL: Tensor, cache: LatentCache | None) -> tuple[Tensor, Tensor]:
        length, device = tokens_BL.shape[1], tokens_BL.device
        runs = cache.runs(length) if cache is not None else [(0, length)]
        positions = torch.cat([torch.arange(start, end, device=device) for start, end in runs])
        return rope_tables(positions, self.config)

    def logits(self, hidden_BLD: Tensor) -> Tensor:
        return self.lm_head(hidden_BLD)

    def loss(
        self,
        tokens_BL: Tensor,
        targets_BL: Tensor,
        balance_weight: float = 0.0,
        document_BL: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to descend, and `loss` (next token, nats/token) and, where they are part of it, `mtp_loss` and
        `balance_loss` (mean over the MoE layers) as they are. A token sees its own document alone where `document_BL`
        numbers them."""
        sample = Sample(tokens_BL, targets_BL, targets_BL[:, 1:], document_BL)
        _, losses = self.part(None, sample, balance_weight > 0)
        num_moe = sum(isinstance(module, MoE) for module in self.modules())
        stats = {name: loss.detach() for name, loss in losses.items()}
        if "balance_loss" in stats:
            stats["balance_loss"] = stats["balance_loss"] / num_moe
        return total_loss(losses, balance_weight), stats

    def part(
        self,
        x_BLD: Tensor | None,
        sample: Sample,
        keeps_balance: bool = False,
        layers: range | None = None,
        head: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The forward pass from the embedding, or from `x_BLD` before the first of `layers`, through these layers, and
        through norm and head if `head`. Gives what comes out of the last of the layers, and the parts of the loss that
        arise on the way: `loss`, `mtp_loss` (means over tokens) and, if `keeps_balance`, `balance_loss` (sum over
        layers). Layers outside `layers` may be None: pipeline stages hold only their own."""
        blocks = [self.layers[layer] for layer in (layers if layers is not None else range(len(self.layers)))]
        held = [*blocks, self.mtp] if head and self.mtp is not None else blocks
        moes = [module for block in held for module in block.modules() if isinstance(module, MoE)]
        for moe in moes:
            moe.keeps_balance = keeps_balance
        cos, sin = self._tables(sample.tokens_BL, sample.cache)
        if x_BLD is None:
            x_BLD = self.embed_tokens(sample.tokens_BL).to(self.dtype)
        for block in blocks:
            x_BLD = block(x_BLD, cos, sin, sample.cache, sample.document_BS)
        losses = {}
        if head:
            losses["loss"] = self.cross_entropy(self.norm(x_BLD), sample.targets_BL)
            if self.mtp is not None:
                losses["mtp_loss"] = self._mtp_loss(x_BLD, sample)
        if keeps_balance and moes:
            losses["balance_loss"] = torch.stack([moe.taken_balance() for moe in moes]).sum()
        return x_BLD.detach() if head else x_BLD, losses  # after the head nothing goes on

    def _mtp_loss(self, body_BLD: Tensor, sample: Sample) -> Tensor:
        assert self.mtp is not None
        targets_BM = sample.mtp_targets_BM
        M = targets_BM.shape[1]
        cos, sin = self._tables(targets_BM, sample.mtp_cache)
        embedded_BMD = self.embed_tokens(sample.targets_BL[:, :M]).to(self.dtype)
        document_BS = sample.document_BS
        if document_BS is not None:  # the last token of a sequence has no part in it
            document_BS = document_BS[:, :-1]
        body_BMD = body_BLD[:, : embedded_BMD.shape[1]]
        hidden_BMD = self.mtp(embedded_BMD, body_BMD, cos, sin, sample.mtp_cache, document_BS)
        return self.cross_entropy(hidden_BMD, targets_BM)

    def cross_entropy(self, hidden_BLD: Tensor, targets_BL: Tensor) -> Tensor:
        """Mean over tokens, in nats, of what the head makes of the hidden states."""
        return linear_cross_entropy(hidden_BLD.flatten(0, 1), self.lm_head.weight, targets_BL.flatten())

    def update_routing_bias(self, rate: float = 1e-3) -> Tensor:
        """After an optimiser step: every MoE layer's bias moves towards balance. Gives the loads, [layers, experts]."""
        loads = [m.update_bias(rate) for m in self.modules() if isinstance(m, MoE)]
        return torch.stack(loads) if loads else torch.zeros(0, self.config.n_routed_experts, dtype=torch.int64)

    def watch_logits(self) -> None:
        """From now on training keeps what `clip_logits` needs."""
        for attention in self._attentions():
            attention.watched = True

    def clip_logits(self, most: float) -> float:
        """After an optimiser step: QK-clip in every layer. Gives the largest attention logit since the last call."""
        return max((attention.clip_logits(most).max().item() for attention in self._attentions()), default=0.0)

    def _attentions(self) -> list[Attention]:
        return [module for module in self.modules() if isinstance(module, Attention)]

    def new_cache(self) -> list[LatentCache]:
        return [LatentCache() for _ in self.layers]


def total_loss(losses: dict[str, Tensor], balance_weight: float) -> Tensor:
    """What is descended, of the parts that `Transformer.part` gives."""
    weights = {"loss": 1.0, "mtp_loss": MTP_WEIGHT, "balance_loss": balance_weight}
    terms = [loss if weights[name] == 1.0 else weights[name] * loss for name, loss in losses.items()]
    return sum(terms[1:], terms[0])
