"""DeepSeek-V3 (arXiv 2412.19437) in plain PyTorch. It knows nothing of parallelism, files, or training loops.

B batch, L length, D hidden, V vocabulary.
"""

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
        document_BL: Tensor | None = None,
    ) -> Tensor:
        x_BLD = x_BLD + self.self_attn(self.input_layernorm(x_BLD), cos, sin, cache, document_BL)
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
        self, embedded_BLD: Tensor, hidden_BLD: Tensor, cos: Tensor, sin: Tensor, document_BL: Tensor | None = None
    ) -> Tensor:
        joined = torch.cat([self.enorm(embedded_BLD), self.hnorm(hidden_BLD)], dim=-1)
        return self.norm(self.block(self.eh_proj(joined), cos, sin, None, document_BL))


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
        start = cache[0].length if cache else 0
        cos, sin = self._tables(start, tokens_BL.shape[1], tokens_BL.device)
        x_BLD = self.embed_tokens(tokens_BL).to(self.dtype)
        for layer, block in enumerate(self.layers):
            x_BLD = block(x_BLD, cos, sin, cache[layer] if cache else None, document_BL)
        return x_BLD

    def _tables(self, start: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        positions = torch.arange(start, start + length, device=device)
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
        layers = [module for module in self.modules() if isinstance(module, MoE)]
        for moe in layers:
            moe.keeps_balance = balance_weight > 0
        body_BLD = self._body(tokens_BL, None, document_BL)
        loss = linear_cross_entropy(self.norm(body_BLD).flatten(0, 1), self.lm_head.weight, targets_BL.flatten())
        stats = {"loss": loss.detach()}
        if self.mtp is not None:
            mtp = self._mtp_loss(body_BLD, targets_BL, document_BL)
            loss, stats = loss + MTP_WEIGHT * mtp, stats | {"mtp_loss": mtp.detach()}
        if balance_weight > 0 and layers:
            balance = torch.stack([moe.taken_balance() for moe in layers])
            loss, stats = loss + balance_weight * balance.sum(), stats | {"balance_loss": balance.detach().mean()}
        return loss, stats

    def _mtp_loss(self, body_BLD: Tensor, targets_BL: Tensor, document_BL: Tensor | None) -> Tensor:
        assert self.mtp is not None
        cos, sin = self._tables(0, targets_BL.shape[1] - 1, targets_BL.device)
        document_BL = document_BL[:, :-1] if document_BL is not None else None
        embedded_BLD = self.embed_tokens(targets_BL[:, :-1]).to(self.dtype)
        hidden = self.mtp(embedded_BLD, body_BLD[:, :-1], cos, sin, document_BL)
        return linear_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, targets_BL[:, 1:].flatten())

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
        return max(attention.clip_logits(most).max().item() for attention in self._attentions())

    def _attentions(self) -> list[Attention]:
        return [module for module in self.modules() if isinstance(module, Attention)]

    def new_cache(self) -> list[LatentCache]:
        return [LatentCache() for _ in self.layers]
