"""The architecture's numbers, by the names that Hugging Face's `deepseek_v3` config uses. No torch."""

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


@dataclass(frozen=True)
class Parameters:
    """`active`: those that one token passes through, the input embedding (a look-up) left out, the head included.
    MTP layers, which serve training, count in `total` alone."""

    total: int
    active: int


class Yarn(BaseModel):
    """Rotary embedding stretched by `factor` beyond the context that the model was trained with (arXiv 2309.00071)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(ge=1)
    original_max_position_embeddings: int = Field(gt=0)
    beta_fast: float = Field(default=32.0, gt=0)
    beta_slow: float = Field(default=1.0, gt=0)
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


class ModelConfig(BaseModel):
    """DeepSeek-V3 (arXiv 2412.19437). `num_nextn_predict_layers` is the number of MTP layers, 0 or 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    first_k_dense_replace: int = Field(1, ge=0)
    intermediate_size: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    q_lora_rank: int | None = None
    kv_lora_rank: int = Field(gt=0)
    qk_nope_head_dim: int = Field(gt=0)
    qk_rope_head_dim: int = Field(gt=0, multiple_of=2)
    v_head_dim: int = Field(gt=0)
    n_routed_experts: int = Field(gt=0)
    n_shared_experts: int = Field(default=1, ge=0)
    num_experts_per_tok: int = Field(gt=0)
    moe_intermediate_size: int = Field(gt=0)
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    max_position_embeddings: int = Field(4096, gt=0)
    rope_theta: float = 10000.0
    rope_scaling: Yarn | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.006
    num_nextn_predict_layers: int = Field(default=0, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_routed_experts % self.n_group:
            raise ValueError(f"n_routed_experts={self.n_routed_experts} is no multiple of n_group={self.n_group}")
        if not 1 <= self.topk_group <= self.n_group:
            raise ValueError(f"topk_group={self.topk_group} must lie in 1..n_group={self.n_group}")
        eligible = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > eligible:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok}, but only {eligible} experts are eligible"
            )
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(f"first_k_dense_replace={self.first_k_dense_replace} exceeds num_hidden_layers")
        return self

    def block_parameters(self, moe: bool, active: bool = False) -> int:
        """Of a layer; `active`: those that one token passes through."""
        d, heads = self.hidden_size, self.num_attention_heads
        qk = self.qk_nope_head_dim + self.qk_rope_head_dim
        if self.q_lora_rank is None:
            query = d * heads * qk
        else:
            query = d * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * heads * qk
        attention = (
            query
            + d * (self.kv_lora_rank + self.qk_rope_head_dim)
            + self.kv_lora_rank
            + self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
            + heads * self.v_head_dim * d
        )
        if not moe:
            return attention + 2 * d + 3 * d * self.intermediate_size
        experts = (self.num_experts_per_tok if active else self.n_routed_experts) + self.n_shared_experts
        router = d * self.n_routed_experts  # its bias is a buffer, not a parameter
        return attention + 2 * d + router + 3 * d * self.moe_intermediate_size * experts

    @property
    def mtp_parameters(self) -> int:
        """Of an MTP layer, without the embedding and the head that it shares."""
        return self.block_parameters(moe=True) + 2 * self.hidden_size**2 + 3 * self.hidden_size

    def parameters(self) -> Parameters:
        """Closed form, equal to a count over the built model."""
        num_dense, head = self.first_k_dense_replace, self.vocab_size * self.hidden_size
        num_moe = self.num_hidden_layers - num_dense
        total, active = (
            num_dense * self.block_parameters(moe=False) + num_moe * self.block_parameters(moe=True, active=only)
            for only in (False, True)
        )
        mtp = self.num_nextn_predict_layers * self.mtp_parameters
        return Parameters(total=total + self.hidden_size + 2 * head + mtp, active=active + self.hidden_size + head)
