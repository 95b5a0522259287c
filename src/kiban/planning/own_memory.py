"""Memory of our own training code on one rank, in closed form, tensor by tensor: what the dry run is held against.

The planner's `memory.py` is for training codes in general. This one knows what `kiban.model` keeps for its backward
pass and when the most is held: in the loss of the last micro-batch, or, where activations are few, once all gradients
are there.
"""

from kiban.model.config import ModelConfig
from kiban.planning.layout import Layout

MASTER, MOMENTS, GRADIENT, LOW = 4, 8, 4, 2  # bytes a weight
CHUNK_LOGITS = 2**28  # of the loss on a GPU, as in kiban.model.loss
ALIGNMENT = 16  # rows of an expert in bf16, as in kiban.model.moe


def own_memory(config: ModelConfig, layout: Layout, length: int) -> dict[str, float]:
    """Bytes by kind, and `total`, of one rank alone."""
    c, x = config, layout
    total = c.parameters().total
    tokens = x.micro_batch * length
    d, v = c.hidden_size, c.vocab_size
    matrices = total - 2 * v * d - _others(c)
    held = (c.first_k_dense_replace * block_bytes(c, tokens, length, moe=False)
            + (c.num_hidden_layers - c.first_k_dense_replace) * block_bytes(c, tokens, length, moe=True))  # fmt: skip
    held += LOW * matrices + LOW * tokens * d * 2  # weights in bf16; what the last block and the last norm gave
    loss = _loss_bytes(c, tokens)
    if c.num_nextn_predict_layers:
        fewer = tokens - x.micro_batch
        held += block_bytes(c, fewer, length, moe=True) + LOW * fewer * d * 6
        held += LOW * tokens * d + GRADIENT * v * d  # the first loss keeps its gradients
        loss = _loss_bytes(c, fewer)
    at_loss = held + loss + (GRADIENT * total if x.micro_batches > 1 else 0)
    gradients = GRADIENT * total if x.micro_batches > 1 or at_loss < GRADIENT * total else 0
    kinds = {
        "weights": float(MASTER * total),
        "gradients": float(gradients),
        "optimiser": float(MOMENTS * total),
        "activations": max(at_loss - gradients, 0.0),
        "communication": 0.0,
    }
    return kinds | {"total": sum(kinds.values())}


def block_bytes(c: ModelConfig, tokens: int, length: int, *, moe: bool) -> float:
    """What a block keeps of a micro-batch."""
    d, heads = c.hidden_size, c.num_attention_heads
    qk, v = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), heads * c.v_head_dim
    latent = c.kv_lora_rank + c.qk_rope_head_dim
    # Inputs and outputs of the two norms; latents as projected and as normed.
    numbers = 4 * d + latent + c.kv_lora_rank + 2 * (c.q_lora_rank or 0)
    # Queries, keys; keys and values as they leave the projection; the output, and again with the heads side by side.
    numbers += 2 * qk + heads * (c.qk_nope_head_dim + c.v_head_dim) + 2 * v
    kept = LOW * tokens * numbers + 4 * tokens * (heads + 2)  # attention's logarithms, the norms' roots
    if not moe:
        return kept + LOW * tokens * 4 * c.intermediate_size
    f, k, e = c.moe_intermediate_size, c.num_experts_per_tok, c.n_routed_experts
    rows = tokens * k + e * (ALIGNMENT - 1)
    # The router sees float32. Gate and up together, silu, two products, and what goes in and comes out.
    kept += 4 * tokens * (d + e) + LOW * rows * (2 * d + 5 * f)
    kept += tokens * k * (4 * 3 + 8 * 3) + rows * (8 + LOW)  # weights and places of the choices
    return kept + LOW * tokens * 4 * f * c.n_shared_experts


def _loss_bytes(c: ModelConfig, tokens: int) -> float:
    """While the loss is computed: logits of a chunk in bf16 and float32, the gradients of hidden states and head, the
    head in bf16 and a chunk's part of its gradient."""
    rows = min(tokens, max(1, CHUNK_LOGITS // c.vocab_size))
    head = c.vocab_size * c.hidden_size
    return (LOW + 4) * rows * c.vocab_size + LOW * tokens * c.hidden_size + (GRADIENT + 2 * LOW) * head


def _others(c: ModelConfig) -> int:
    """Weights of norms and routers, which are used in float32."""
    layers = c.num_hidden_layers + c.num_nextn_predict_layers
    moe = c.num_hidden_layers - c.first_k_dense_replace + c.num_nextn_predict_layers
    norms = layers * (2 * c.hidden_size + c.kv_lora_rank + (c.q_lora_rank or 0)) + c.hidden_size
    return norms + moe * c.hidden_size * c.n_routed_experts + c.num_nextn_predict_layers * 3 * c.hidden_size
