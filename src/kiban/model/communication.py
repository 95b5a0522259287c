"""Bytes on the wire, in closed form: what a rank sends for each axis of parallelism. No torch.

In a ring, which is what NCCL's and gloo's large collectives are, every byte of the result passes each rank once, but
for the part that it has (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69:117, 2009; Thakur et al., Int. J. High
Perform. Comput. Appl. 19:49, 2005).
"""

from dataclasses import dataclass

from kiban.model.config import ModelConfig
from kiban.model.layout import Layout

WEIGHT_BYTES = 2  # weights travel in bf16, activations too
GRADIENT_BYTES = 4  # and are summed in float32


# Collectives


def all_gather(whole: float, ranks: int) -> float:
    """`whole`: bytes of the result, of which each rank gives its part."""
    return (ranks - 1) / ranks * whole


def reduce_scatter(whole: float, ranks: int) -> float:
    """`whole`: bytes that each rank gives; it takes back the sum of a part."""
    return (ranks - 1) / ranks * whole


def all_reduce(whole: float, ranks: int) -> float:
    """A reduce-scatter and an all-gather."""
    return reduce_scatter(whole, ranks) + all_gather(whole, ranks)


def all_to_all(given: float, ranks: int) -> float:
    """`given`: bytes that a rank hands out evenly, a part to itself."""
    return (ranks - 1) / ranks * given


# Axes


def sharded_once(weights: float, ranks: int) -> float:
    """A step with sharded optimiser (ZeRO-1 and 2, arXiv 1910.02054, section 7.1): gradients are scattered, the new
    weights gathered. `weights`: how many, of those that `ranks` share."""
    return reduce_scatter(GRADIENT_BYTES * weights, ranks) + all_gather(WEIGHT_BYTES * weights, ranks)


def sharded_fully(weights: float, ranks: int) -> float:
    """A micro-batch with sharded weights (ZeRO-3, section 7.2 there; FSDP, arXiv 2304.11277, section 3.2): gathered for
    the forward pass and again for the backward pass, gradients scattered."""
    return 2 * all_gather(WEIGHT_BYTES * weights, ranks) + reduce_scatter(GRADIENT_BYTES * weights, ranks)


def replicas(weights: float, ranks: int, groups: int) -> float:
    """A step with `groups` groups of `ranks` (hybrid sharding, arXiv 2304.11277, section 3.2.2): each rank's part of
    the gradients is summed over the groups."""
    return all_reduce(GRADIENT_BYTES * weights / ranks, groups)


def tensor(tokens: float, hidden: int, ranks: int) -> float:
    """Of one pass through attention or an MLP, forward or backward: activations are gathered before it and scattered
    after it, if sequences are shared out in between (arXiv 2205.05198, section 4.2.2); without, they are summed, which
    is as much. `tokens`: of the group together."""
    whole = tokens * hidden * WEIGHT_BYTES
    return all_gather(whole, ranks) + reduce_scatter(whole, ranks)


def experts(tokens: float, hidden: int, chosen: int, ranks: int) -> float:
    """Of one way, to the experts or back, forward or backward: each token goes to `chosen` of them (GShard, arXiv
    2006.16668, section 3.2). `tokens`: of this rank. With balanced routing; the busiest rank has more without."""
    return all_to_all(tokens * chosen * hidden * WEIGHT_BYTES, ranks)


def context_latents(tokens: float, latent: int, ranks: int) -> float:
    """Of a layer, forward and backward: the latents and rotary keys (arXiv 2405.04434, section 2.1), `latent` numbers a
    token, are gathered, and their gradients scattered. `tokens`: of this rank."""
    whole = tokens * ranks * latent * WEIGHT_BYTES
    return all_gather(whole, ranks) + reduce_scatter(whole, ranks)


def context_ring(tokens: float, keys: int, ranks: int) -> float:
    """Of a layer, forward and backward, where keys and values go round (ring attention, arXiv 2310.01889, section 3):
    once forward, and backward once more with their gradients. `keys`: of keys, and of values as many, a token."""
    return 3 * all_gather(tokens * ranks * 2 * keys * WEIGHT_BYTES, ranks)


def pipeline(tokens: float, hidden: int, chunks: int) -> float:
    """Of a micro-batch on a middle stage with `chunks` chunks: a message each way for each."""
    return 2 * chunks * pipeline_message(tokens, hidden)


# A step of our own code (kiban.training.parallelize)


@dataclass(frozen=True)
class Held:
    """What of the model a pipeline stage holds: `first` the embedding, `last` norm, head and MTP."""

    dense_layers: int
    moe_layers: int
    first: bool = True
    last: bool = True


@dataclass(frozen=True)
class Weights:
    """Of a stage, before they are shared out. Embedding, head, last norm and routers travel in float32."""

    experts: int
    cut: int  # by tensor parallelism: attention's larger projections and MLPs
    cut_wide: int  # embedding and head
    whole: int
    whole_wide: int


def weights_of(config: ModelConfig, held: Held) -> Weights:
    c, d = config, config.hidden_size
    mtp = c.num_nextn_predict_layers if held.last else 0
    moe = held.moe_layers + mtp
    layers = held.dense_layers + moe
    heads = c.num_attention_heads
    attention = (c.q_lora_rank or d) * heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
    attention += c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * d
    cut = layers * attention + 3 * d * held.dense_layers * c.intermediate_size
    cut += 3 * d * moe * c.moe_intermediate_size * c.n_shared_experts
    experts = 3 * d * moe * c.moe_intermediate_size * c.n_routed_experts
    routers = moe * d * c.n_routed_experts
    blocks = held.dense_layers * c.block_parameters(moe=False) + held.moe_layers * c.block_parameters(moe=True)
    blocks += mtp * c.mtp_parameters
    tables = (held.first or mtp > 0) + held.last  # MTP has a copy of the embedding
    return Weights(experts, cut, tables * c.vocab_size * d, blocks - experts - cut - routers, routers + d * held.last)


def step(config: ModelConfig, layout: Layout, held: Held, length: int) -> dict[tuple[str, str], float]:
    """By collective and axis: bytes that a rank of our own code sends in a step. What is summed over ranks of norms,
    losses and loads, a few numbers a layer, is left out.

    Weights are gathered for each forward pass but those that follow a backward pass, from which they stay, and for each
    backward pass that follows a forward pass: in 1F1B once more than there are micro-batches. If they stay between
    (`shard` below 3), once. Gradients are reduced once a step.
    """
    c, x = config, layout
    within = 1 if x.shard == 0 else min(x.shard_ranks or x.data, x.data)
    replica, shard = x.data // within, within * x.context
    fold, owners = shard * x.tensor, shard * x.tensor // x.expert
    w, wide, m = weights_of(c, held), GRADIENT_BYTES, x.micro_batches
    times = m + 1 if x.shard == 3 else 1
    sent = dict[tuple[str, str], float]()

    def add(op: str, axis: str, size: float) -> None:
        if size:
            sent[op, axis] = sent.get((op, axis), 0.0) + size

    groups = [("owners", owners, w.experts / x.expert, 0.0)]
    if x.tensor > 1:
        groups += [("shard", shard, w.cut / x.tensor, w.cut_wide / x.tensor), ("fold", fold, w.whole, w.whole_wide)]
    else:
        groups.append(("fold", fold, w.cut + w.whole, w.cut_wide + w.whole_wide))
    for axis, ranks, low, full in groups:
        axis = "fold" if ranks == fold else axis  # the same ranks
        add("all_gather", axis, times * all_gather(WEIGHT_BYTES * low + wide * full, ranks))
        add("reduce_scatter", axis, reduce_scatter(GRADIENT_BYTES * (low + full), ranks))
        add("all_reduce", "replica", replicas(low + full, ranks, replica))

    mtp = c.num_nextn_predict_layers if held.last else 0
    moe, layers = held.moe_layers + mtp, held.dense_layers + held.moe_layers + mtp
    rows = x.micro_batch * length / x.context  # tokens of a sequence's part, which `tensor` ranks share
    tokens, d = rows / x.tensor, c.hidden_size
    latents = layers * context_latents(rows, c.kv_lora_rank + c.qk_rope_head_dim, x.context) / 2
    # Through each attention and MLP and back; embeddings are summed in float32, and head and loss gather what is low.
    dense = held.dense_layers + moe * (c.n_shared_experts > 0)
    passes = (layers + dense) * tensor(rows, d, x.tensor)
    ends = (held.first + mtp) * all_gather(wide * rows * d, x.tensor)
    ends += (held.last + mtp) * all_gather(WEIGHT_BYTES * rows * d, x.tensor)
    for op in ("all_gather", "reduce_scatter"):
        add(op, "context", m * latents)
        add(op, "tensor", m * (passes + ends))
    # The loss over the vocabulary's parts: a maximum and two sums for each token.
    add("all_reduce", "tensor", m * (held.last + mtp) * all_reduce(3 * 4 * rows, x.tensor))
    # Tokens and the weights of their choices there, results back; backward likewise. And how many go where.
    choices = 2 * all_to_all(4 * tokens * c.num_experts_per_tok, x.expert)
    counts = all_to_all(8 * c.n_routed_experts, x.expert)
    each = 4 * experts(tokens, d, c.num_experts_per_tok, x.expert) + choices + counts
    add("all_to_all", "expert", m * moe * each)
    if x.pipeline > 1:
        add("send", "pipeline", m * ((not held.first) + (not held.last)) * pipeline_message(tokens, d))
        if c.num_nextn_predict_layers and (held.first or held.last):  # gradients of the embedding's two copies
            table = GRADIENT_BYTES * c.vocab_size * d / x.tensor / (shard if x.tensor > 1 else fold)
            add("send", "pipeline", table)
    return sent


def pipeline_message(tokens: float, hidden: int) -> float:
    """Activations to the next stage, or their gradients to the one before (arXiv 2104.04473, section 2.2)."""
    return tokens * hidden * WEIGHT_BYTES
