"""A model's sizes, as far as its cost depends on them. From one of our configurations, or from a published description.

Counts are of weights; a weight costs a token 2 operations forward and 4 backward.
"""

from dataclasses import dataclass

from kiban.model.config import ModelConfig


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int  # MTP layers not among them
    moe_layers: int
    vocab: int
    tied: bool  # the head is the input embedding
    heads: int
    kv_heads: int
    attention: int  # weights of a layer's projections
    qk: int  # query (and expanded key) dims, all heads together
    v: int  # value dims, all heads together
    kv_sent: int  # dims of keys and values as context parallelism passes them on
    saved_attention: int  # dims a token leaves behind in a layer's attention for the backward pass
    full_attention_layers: int  # the others look back over a window that costs next to nothing
    dense_ffn: int  # weights of a dense layer's MLP
    dense_width: int  # and the width of what lies between its matrices, gate and up counted each
    experts: int
    chosen: int
    expert: int  # weights of one expert
    expert_width: int
    shared: int  # weights of the shared experts together
    shared_width: int
    mtp_layers: int
    groups: int = 1  # of experts; a token's are chosen from `chosen_groups` of them (arXiv 2412.19437, section 2.1.2)
    chosen_groups: int = 1

    @property
    def router(self) -> int:
        return self.hidden * self.experts

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def dense_layers(self) -> int:
        return self.layers - self.moe_layers

    @property
    def dense_layer(self) -> int:
        """Weights of a dense layer with its two norms."""
        return self.attention + self.dense_ffn + 2 * self.hidden

    @property
    def moe_layer_without_experts(self) -> int:
        return self.attention + self.router + self.shared + 2 * self.hidden

    @property
    def mtp_extra(self) -> int:
        """What an MTP layer has beside a block: the joining projection and three norms (arXiv 2412.19437, 2.2)."""
        return 2 * self.hidden**2 + 3 * self.hidden

    @property
    def total(self) -> int:
        moe = self.moe_layer_without_experts + self.experts * self.expert
        block = moe if self.moe_layers else self.dense_layer
        return (
            self.dense_layers * self.dense_layer
            + self.moe_layers * moe
            + self.mtp_layers * (block + self.mtp_extra)
            + self.head * (1 if self.tied else 2)
            + self.hidden
        )

    @property
    def active(self) -> int:
        """Weights that a token passes through, the head included, the input embedding and MTP not."""
        moe = self.moe_layer_without_experts + self.chosen * self.expert
        return self.dense_layers * self.dense_layer + self.moe_layers * moe + self.head + self.hidden

    def flops_per_token(self, sequence_length: int, causal: bool = True) -> float:
        """Of the model, forward and backward, recomputation not counted; as `kiban.training.flops`, MTP added.

        6 for each active weight (arXiv 2001.08361, section 2.1), and attention: scores and values take
        2 x (qk + v) x length for each token forward, half of that if causal (arXiv 2205.05198, appendix A).
        """
        block = self.moe_layer_without_experts + self.chosen * self.expert if self.moe_layers else self.dense_layer
        mtp = self.mtp_layers * (block + self.mtp_extra + self.head)
        attention = 6 * (self.qk + self.v) * sequence_length * (0.5 if causal else 1.0)
        return 6.0 * (self.active + mtp) + attention * (self.full_attention_layers + self.mtp_layers)


def shape_of(config: ModelConfig) -> Shape:
    """Of a DeepSeek-V3-type model (arXiv 2412.19437, section 2.1)."""
    d, heads = config.hidden_size, config.num_attention_heads
    nope, rope, v = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    attention, saved = mla(d, heads, config.q_lora_rank, config.kv_lora_rank, nope, rope, v)
    shared = config.moe_intermediate_size * config.n_shared_experts
    return Shape(
        hidden=d,
        layers=config.num_hidden_layers,
        moe_layers=config.num_hidden_layers - config.first_k_dense_replace,
        vocab=config.vocab_size,
        tied=False,
        heads=heads,
        kv_heads=heads,
        attention=attention,
        qk=heads * (nope + rope),
        v=heads * v,
        kv_sent=config.kv_lora_rank + rope,
        saved_attention=saved,
        full_attention_layers=config.num_hidden_layers,
        dense_ffn=3 * d * config.intermediate_size,
        dense_width=3 * config.intermediate_size,
        experts=config.n_routed_experts,
        chosen=config.num_experts_per_tok,
        expert=3 * d * config.moe_intermediate_size,
        expert_width=3 * config.moe_intermediate_size,
        shared=3 * d * shared,
        shared_width=3 * shared,
        mtp_layers=config.num_nextn_predict_layers,
        groups=config.n_group,
        chosen_groups=config.topk_group,
    )


def mla(d: int, heads: int, q_rank: int | None, kv_rank: int, nope: int, rope: int, v: int) -> tuple[int, int]:
    """Weights of multi-head latent attention, norms of the latents included, and the dims that it saves for the
    backward pass: latents, queries, keys, values, output."""
    query = d * heads * (nope + rope) if q_rank is None else d * q_rank + q_rank + q_rank * heads * (nope + rope)
    weights = query + d * (kv_rank + rope) + kv_rank + kv_rank * heads * (nope + v) + heads * v * d
    saved = 2 * (q_rank or 0) + 2 * kv_rank + rope + 2 * heads * (nope + rope) + 2 * heads * v
    return weights, saved
