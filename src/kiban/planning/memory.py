"""Memory of a rank, in closed form, by kind, in bytes.

Weights, gradients and optimiser as in ZeRO (arXiv 1910.02054, section 3.1): bf16 weights, float32 gradients, float32
master weights and two moments. Activations: what each layer saves for its backward pass, tensor by tensor, after
Korthikanti et al. (arXiv 2205.05198, section 4), for layers of any kind; micro-batches in flight under 1F1B and
interleaved 1F1B as there, section 4.2.3.
"""

from dataclasses import replace

from kiban.model.layout import Layout
from kiban.planning.shape import Shape
from kiban.planning.work import stage_layers

# CUDA context, NCCL's buffers, kernel workspaces and what the allocator loses: the dry run cannot see them either.
RUNTIME_BYTES = 4e9
USABLE = 0.94  # of the memory: what drivers and fragmentation leave


def memory(shape: Shape, layout: Layout, sequence_length: int) -> dict[str, float]:
    """Bytes on the fullest stage: `weights`, `gradients`, `optimiser`, `activations`, `logits`, `runtime`, `total`."""
    stages = {"first"} if layout.pipeline == 1 else {"first", "last"}
    return max((_stage(shape, layout, sequence_length, stage) for stage in stages), key=lambda kinds: kinds["total"])


def saved_bytes(shape: Shape, layout: Layout, tokens: float, *, moe: bool) -> float:
    """Of one layer and micro-batch, on one rank, in bf16."""
    x, h = layout, shape.hidden
    split = x.tensor
    whole = split if x.sequence_parallel else 1
    if x.recompute == "full":
        return 2.0 * tokens * h / whole
    # The two residuals, the two norms' outputs; queries to output of attention; gate, up and their product.
    dims = 4 * h / whole
    dims += (shape.saved_attention if x.recompute == "none" else shape.v + 2 * shape.kv_sent) / split
    if moe:
        widths = shape.expert_width if x.recompute == "none" else 2 / 3 * shape.expert_width
        dims += shape.chosen * (2 * h + widths) / split + (shape.shared_width + 2 * shape.experts) / split
    else:
        dims += (1.0 if x.recompute == "none" else 2 / 3) * shape.dense_width / split
    return 2.0 * tokens * dims


def _stage(shape: Shape, layout: Layout, sequence_length: int, stage: str) -> dict[str, float]:
    x = layout
    middle, last = stage_layers(shape, x)
    layers = last if stage == "last" or x.pipeline == 1 else middle
    tokens = x.micro_batch * sequence_length / x.context
    moe_layers = _moe_layers(shape, layers, x.pipeline)
    dense_layers = layers - moe_layers
    has_head, has_embedding = stage == "last" or x.pipeline == 1, stage == "first"

    dense = dense_layers * shape.dense_layer + moe_layers * shape.moe_layer_without_experts
    dense += shape.head * (has_head + has_embedding - (shape.tied and has_head and has_embedding))
    dense += (shape.mtp_layers * shape.mtp_extra + shape.hidden) if has_head else 0
    dense /= x.tensor
    experts = moe_layers * shape.experts * shape.expert / x.expert / x.expert_tensor
    owners = min(x.shard_ranks or x.data, x.data) * x.context
    expert_owners = max(1, x.expert_data)

    def held(bytes_each: float, stage_of_zero: int) -> float:
        if x.shard >= stage_of_zero:
            return bytes_each * (dense / owners + experts / expert_owners)
        return bytes_each * (dense + experts)

    weights = held(2.0, 3)
    if x.shard == 3:  # the layer at work and the next one, gathered
        layer = shape.moe_layer_without_experts if moe_layers else shape.dense_layer
        expert_layer = shape.experts * shape.expert / x.expert if moe_layers else 0
        weights += 2 * 2.0 * (layer / x.tensor + expert_layer)
    in_flight = float(min(x.micro_batches, x.pipeline)) if stage == "first" else 1.0
    if x.virtual > 1:
        in_flight *= 1 + (x.pipeline - 1) / (x.pipeline * x.virtual)
    activations = in_flight * (
        dense_layers * saved_bytes(shape, x, tokens, moe=False) + moe_layers * saved_bytes(shape, x, tokens, moe=True)
    )
    if x.recompute == "full":  # and the one layer that is being recomputed
        activations += saved_bytes(shape, replace(x, recompute="none"), tokens, moe=moe_layers > 0)
    kinds = {
        "weights": weights,
        "gradients": held(4.0, 2),
        "optimiser": held(12.0, 1),
        "activations": activations,
        "logits": (4.0 + 2.0) * tokens * shape.vocab / x.tensor if has_head else 0.0,
        "runtime": RUNTIME_BYTES,
    }
    return kinds | {"total": sum(kinds.values())}


def _moe_layers(shape: Shape, layers: int, pipeline: int) -> float:
    if not shape.moe_layers:
        return 0.0
    if pipeline == 1:
        return min(layers, shape.moe_layers + shape.mtp_layers)
    return layers * (1.0 if shape.dense_layers <= 3 else shape.moe_layers / shape.layers)
