"""Bytes on the wire, in closed form: what a rank sends for each axis of parallelism. No torch.

In a ring, which is what NCCL's and gloo's large collectives are, every byte of the result passes each rank once, but
for the part that it has (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69:117, 2009; Thakur et al., Int. J. High
Perform. Comput. Appl. 19:49, 2005).
"""

from dataclasses import dataclass

from kiban.model.config import ModelConfig

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


# A step of our own code


@dataclass(frozen=True)
class Held:
    """What of the model a rank's pipeline stage holds: `first` the embedding, `last` norm, head and MTP."""

    dense_layers: int
    moe_layers: int
    first: bool = True
    last: bool = True

    def blocks(self, config: ModelConfig) -> int:
        """Parameters of the layers, MTP among them: each layer is gathered when it is needed."""
        mtp = config.num_nextn_predict_layers * config.mtp_parameters if self.last else 0
        dense, moe = (config.block_parameters(moe=kind) for kind in (False, True))
        return self.dense_layers * dense + self.moe_layers * moe + mtp

    def rest(self, config: ModelConfig) -> int:
        """Of the embedding, the last norm and the head: gathered once a step."""
        table = config.vocab_size * config.hidden_size
        copied = self.last and config.num_nextn_predict_layers > 0  # MTP has a copy of the embedding
        return table * (self.first or copied) + (table + config.hidden_size) * self.last


def step(
    config: ModelConfig,
    held: Held,
    *,
    micro_batches: int,
    micro_rows: int,
    length: int,
    shard: int = 1,
    replica: int = 1,
    context: int = 1,
    pipeline: int = 1,
) -> dict[tuple[str, str], float]:
    """By collective and axis: what a rank of our own code sends in a step. `shard` ranks, of which `context` share each
    sequence, hold a part of every weight; `replica` such groups.

    A layer's weights are gathered for each forward pass but those that follow a backward pass, from which they stay,
    and for each backward pass that follows a forward pass: in 1F1B once more than there are micro-batches. Gradients
    are reduced once a step.
    """
    blocks, rest = held.blocks(config), held.rest(config)
    tokens = micro_rows * length / context
    sent: dict[tuple[str, str], float] = {}
    if shard > 1:
        sent["all_gather", "shard"] = all_gather(WEIGHT_BYTES * ((micro_batches + 1) * blocks + rest), shard)
        sent["reduce_scatter", "shard"] = reduce_scatter(GRADIENT_BYTES * (blocks + rest), shard)
    if replica > 1:
        sent["all_reduce", "replica"] = replicas(blocks + rest, shard, replica)
    if context > 1:
        layers = held.dense_layers + held.moe_layers + (config.num_nextn_predict_layers if held.last else 0)
        latents = layers * context_latents(tokens, config.kv_lora_rank + config.qk_rope_head_dim, context)
        for op in ("all_gather", "reduce_scatter"):
            sent[op, "context"] = micro_batches * latents / 2
    if pipeline > 1:
        neighbours = (not held.first) + (not held.last)
        sent["send", "pipeline"] = micro_batches * neighbours * pipeline_message(tokens, config.hidden_size)
        if config.num_nextn_predict_layers and (held.first or held.last):  # the two copies of the embedding
            copy = GRADIENT_BYTES * config.vocab_size * config.hidden_size / shard
            sent["all_reduce", "pipeline"] = all_reduce(copy, 2)
    return sent


def pipeline_message(tokens: float, hidden: int) -> float:
    """Activations to the next stage, or their gradients to the one before (arXiv 2104.04473, section 2.2)."""
    return tokens * hidden * WEIGHT_BYTES
