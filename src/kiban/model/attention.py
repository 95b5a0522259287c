"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

B batch, L length, S cached + L, D hidden, H heads, N nope dim, R rope dim, K = N + R, V value dim,
C latent (kv_lora_rank).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiban.model.causal import causal_attention
from kiban.model.config import ModelConfig
from kiban.model.layers import Linear, RMSNorm, wide
from kiban.model.rope import rotate, softmax_scale

ROWS = 256  # of the logits that `max_logit_H` looks at together


@dataclass
class LatentCache:
    """What attention knows of tokens beside those at hand, here of the past: a latent and one rotary key a token.
    Shapes [B, S, C] and [B, S, R]."""

    latent_BSC: Tensor | None = None
    key_BSR: Tensor | None = None

    def append(self, latent_BLC: Tensor, key_BLR: Tensor) -> tuple[Tensor, Tensor]:
        if self.latent_BSC is not None and self.key_BSR is not None:
            latent_BLC = torch.cat([self.latent_BSC, latent_BLC], dim=1)
            key_BLR = torch.cat([self.key_BSR, key_BLR], dim=1)
        self.latent_BSC, self.key_BSR = latent_BLC, key_BLR
        return latent_BLC, key_BLR

    def runs(self, length: int) -> list[tuple[int, int]]:
        """First and last + 1 of each run of positions that the next `length` tokens have, in order."""
        past = 0 if self.latent_BSC is None else self.latent_BSC.shape[1]
        return [(past, past + length)]


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.nope, self.rope = (
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
        )
        self.value, self.latent = config.v_head_dim, config.kv_lora_rank
        d, heads, qk = config.hidden_size, config.num_attention_heads, self.nope + self.rope
        if config.q_lora_rank is None:
            self.q_proj = Linear(d, heads * qk)
        else:
            self.q_a_proj = Linear(d, config.q_lora_rank)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=config.rms_norm_eps)
            self.q_b_proj = Linear(config.q_lora_rank, heads * qk)
        self.kv_a_proj_with_mqa = Linear(d, self.latent + self.rope)
        self.kv_a_layernorm = RMSNorm(self.latent, eps=config.rms_norm_eps)
        self.kv_b_proj = Linear(self.latent, heads * (self.nope + self.value))
        self.o_proj = Linear(heads * self.value, d)
        self.scale = softmax_scale(config)
        self.watched = False  # whether `max_logit_H` is kept while training
        self.max_logit_H: Tensor | None = None

    def forward(
        self,
        x_BLD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LatentCache | None = None,
        document_BS: Tensor | None = None,
    ) -> Tensor:
        B, L, _ = x_BLD.shape
        runs = cache.runs(L) if cache is not None else [(0, L)]
        compressed = not hasattr(self, "q_proj")
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BLD))) if compressed else self.q_proj(x_BLD)
        q_BHLK = q.view(B, L, self.num_heads, -1).transpose(1, 2)
        q_nope, q_rope = q_BHLK.split([self.nope, self.rope], dim=-1)
        latent_BLC, key_BLR = self.kv_a_proj_with_mqa(x_BLD).split([self.latent, self.rope], dim=-1)
        latent_BLC, key_BLR = self.kv_a_layernorm(latent_BLC), rotate(key_BLR, cos, sin)
        if cache is not None:
            latent_BLC, key_BLR = cache.append(latent_BLC, key_BLR)
        S = latent_BLC.shape[1]
        kv_BHSX = self.kv_b_proj(latent_BLC).view(B, S, self.num_heads, -1).transpose(1, 2)
        k_nope, v_BHSV = kv_BHSX.split([self.nope, self.value], dim=-1)
        q_BHLK = torch.cat([q_nope, rotate(q_rope, cos, sin)], dim=-1)
        k_BHSK = torch.cat([k_nope, key_BLR[:, None].expand(B, self.num_heads, S, self.rope)], dim=-1)
        if len(runs) == 1:
            out = self._attend(q_BHLK, k_BHSK, v_BHSV, document_BS)
        else:
            queries = q_BHLK.split([end - start for start, end in runs], 2)
            seen = [(k_BHSK[:, :, :end], v_BHSV[:, :, :end]) for _, end in runs]
            known = [document_BS[:, :end] if document_BS is not None else None for _, end in runs]
            out = torch.cat([self._attend(q, k, v, d) for q, (k, v), d in zip(queries, seen, known, strict=True)], 2)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _attend(self, q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, document_BS: Tensor | None) -> Tensor:
        if self.watched and self.training:
            self._watch(q_BHLK, k_BHSK)
        return causal_attention(q_BHLK, k_BHSK, v_BHSV, self.scale, document_BS)

    @torch.no_grad()
    def _watch(self, q_BHLK: Tensor, k_BHSK: Tensor) -> None:
        """The largest logit of each head, also over the parts of a batch before; some rows at a time. Those of other
        documents count: what they would be in a text is what must be bounded."""
        past = k_BHSK.shape[2] - q_BHLK.shape[2]
        for start in range(0, q_BHLK.shape[2], ROWS):
            rows = q_BHLK[:, :, start : start + ROWS]
            logits = rows @ k_BHSK[:, :, : past + start + rows.shape[2]].transpose(-2, -1)
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(past + start + 1)
            most_H = logits.masked_fill_(later, -torch.inf).amax((0, 2, 3))
            most_H = wide(most_H) * self.scale
            self.watch(most_H)

    def watch(self, most_H: Tensor) -> None:
        self.max_logit_H = most_H if self.max_logit_H is None else torch.maximum(self.max_logit_H, most_H)

    @torch.no_grad()
    def clip_logits(self, most: float) -> Tensor:
        """QK-clip (Kimi K2, arXiv 2507.20534, section 2.1): in heads whose largest logit exceeded `most`, the weights
        of queries and keys are scaled down so that it would have been `most`. The rotary key, which all heads share,
        stays: the rotary query takes both halves. Gives the largest logits, [H], and starts to watch anew."""
        assert self.max_logit_H is not None, "set `watched` before the forward pass"
        most_H, self.max_logit_H = self.max_logit_H, None
        scale_H1 = (most / most_H.clamp(min=most))[:, None]
        nope_HN = scale_H1.sqrt().expand(-1, self.nope)
        rope_HR, value_HV = scale_H1.expand(-1, self.rope), torch.ones_like(scale_H1).expand(-1, self.value)
        query = self.q_proj if hasattr(self, "q_proj") else self.q_b_proj
        self.scale_rows(query.weight, torch.cat([nope_HN, rope_HR], 1).flatten())
        self.scale_rows(self.kv_b_proj.weight, torch.cat([nope_HN, value_HV], 1).flatten())
        return most_H

    def scale_rows(self, weight_OI: Tensor, scale_O: Tensor) -> None:
        weight_OI.mul_(scale_O[:, None])
