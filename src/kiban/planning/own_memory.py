"""Memory of our own training code on one rank, in closed form, tensor by tensor: what the dry run is held against.

The planner's `memory.py` is for training codes in general. This one knows what `kiban.model` keeps for its backward
pass and when the most is held: in the loss of the last micro-batch (on a stage without it, when the backward pass
begins), or, where activations are few, once all gradients are there.
"""

from kiban.model.communication import Held, weights_of
from kiban.model.config import ModelConfig
from kiban.model.layout import Layout

MASTER, MOMENTS, GRADIENT, LOW = 4, 8, 4, 2  # bytes a weight
CHUNK_LOGITS = 2**28  # of the loss on a GPU, as in kiban.model.loss
ALIGNMENT = 16  # rows of an expert in bf16, as in kiban.model.moe


def own_memory(config: ModelConfig, layout: Layout, length: int, held: Held | None = None) -> dict[str, float]:
    """Bytes by kind, and `total`, of a rank that holds a pipeline stage; of all of the model without `held`. Tensor and
    context parallelism are not in it.

    Raises:
        ValueError: with those.
    """
    c, x = config, layout
    if x.tensor > 1 or x.context > 1:
        raise ValueError("the closed form of memory knows no tensor and no context parallelism")
    h = held or Held(c.first_k_dense_replace, c.num_hidden_layers - c.first_k_dense_replace)
    w, alone = weights_of(c, h), x.gpus == x.pipeline
    shard = 1 if x.shard == 0 else min(x.shard_ranks or x.data, x.data)
    tokens, d, v, mtp = x.micro_batch * length, c.hidden_size, c.vocab_size, c.num_nextn_predict_layers * h.last
    low, wide = w.experts / x.expert + w.cut + w.whole, w.cut_wide + w.whole_wide
    local = low + wide
    kept = w.experts / x.expert / (shard / x.expert) + (local - w.experts / x.expert) / shard

    acts = h.dense_layers * block_bytes(c, tokens, moe=False, spread=x.expert > 1)
    acts += h.moe_layers * block_bytes(c, tokens, moe=True, spread=x.expert > 1)
    # Micro-batches that have gone forward and not yet back, under 1F1B; what a stage was sent, or embedded, and gives.
    in_flight = min(x.micro_batches, 1 if h.last else x.pipeline)
    acts = in_flight * (acts + LOW * tokens * d * (2 - (not h.last)))
    # Where there is no loss, the most is held when a layer's experts have gradients that are not yet summed.
    loss = _loss_bytes(c, tokens) if h.last else LOW * w.experts / x.expert / max(1, h.moe_layers)
    if mtp:
        fewer = tokens - x.micro_batch
        acts += block_bytes(c, fewer, moe=True, spread=x.expert > 1) + LOW * fewer * d * 6
        acts += LOW * tokens * d + GRADIENT * v * d  # the first loss keeps its gradients
        loss = _loss_bytes(c, fewer)
    # Without FSDP the weights in bf16 are casts, of matrices alone; with it they are gathered, embedding and head wide.
    norms = w.whole - (h.dense_layers + h.moe_layers + mtp) * d * (c.kv_lora_rank + c.qk_rope_head_dim)
    norms -= (h.dense_layers + h.moe_layers + mtp) * d * (c.q_lora_rank or 0) + 2 * d * d * mtp
    layers = LOW * (low - norms) if alone else LOW * low
    gathered = 0.0 if alone else MASTER * wide
    # Gradients are reduced when the last micro-batch is through; until then each rank has all.
    summed = GRADIENT * local
    at_loss = acts + loss + gathered + (layers if alone or x.shard < 3 else 0.0) + summed * (x.micro_batches > 1)
    at_end = summed + (0.0 if alone else layers + gathered)
    most = max(at_loss, at_end)
    gradients = summed if x.micro_batches > 1 or at_end > at_loss else 0.0
    sent = 0.0 if alone else gathered + (layers if x.shard < 3 or at_end > at_loss else 0.0)
    kinds = {
        "weights": float(MASTER * kept),
        "gradients": float(gradients),
        "optimiser": float(MOMENTS * kept),
        "activations": float(most - gradients - sent),
        "communication": float(sent),
    }
    return kinds | {"total": sum(kinds.values())}


def block_bytes(c: ModelConfig, tokens: int, *, moe: bool, spread: bool = False) -> float:
    """What a block keeps of a micro-batch; `spread`: its experts stand on several ranks."""
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
    kept += 4 * tokens * (d + e) + LOW * rows * ((1 if spread else 2) * d + 5 * f)
    if spread:  # tokens as sent and as they came back, results as put in order and as sent
        kept += 4 * LOW * tokens * k * d
    kept += tokens * k * (4 * 3 + 8 * 3) + rows * (8 + LOW)  # weights and places of the choices
    return kept + LOW * tokens * 4 * f * c.n_shared_experts


def _loss_bytes(c: ModelConfig, tokens: int) -> float:
    """While the loss is computed: logits of a chunk in bf16 and float32, the gradients of hidden states and head, the
    head in bf16 and a chunk's part of its gradient."""
    rows = min(tokens, max(1, CHUNK_LOGITS // c.vocab_size))
    head = c.vocab_size * c.hidden_size
    return (LOW + 4) * rows * c.vocab_size + LOW * tokens * c.hidden_size + (GRADIENT + 2 * LOW) * head
