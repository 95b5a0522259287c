"""Bytes on the wire, in closed form: what a rank sends for each axis of parallelism. No torch.

In a ring, which is what NCCL's and gloo's large collectives are, every byte of the result passes each rank once, but
for the part that it has (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69:117, 2009; Thakur et al., Int. J. High
Perform. Comput. Appl. 19:49, 2005).
"""

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
    """Of a micro-batch on a middle stage with `chunks` chunks: the activations to the next, and their gradients to the
    one before (arXiv 2104.04473, section 2.2)."""
    return 2 * chunks * tokens * hidden * WEIGHT_BYTES
