"""What the busiest rank has to do in a step: operations, bytes through its memory, bytes over its links.

Everything here follows from sizes alone; how fast it is done is `step_time.py`'s matter. Bytes over links are given as
the seconds that they take at the link's rated bandwidth.
"""

import math
from dataclasses import dataclass

from kiban.model import communication
from kiban.model.communication import GRADIENT_BYTES, WEIGHT_BYTES
from kiban.model.layout import Layout
from kiban.planning.hardware import GPU
from kiban.planning.shape import Shape


@dataclass(frozen=True)
class Work:
    """Of the busiest pipeline stage; `micro`: for each micro-batch, forward and backward, recomputation included."""

    # micro: operations
    linear_flops: float
    expert_flops: float
    head_flops: float  # in bf16 whatever the layers compute in
    attention_flops: float
    linear_width: float  # the narrowest side of the layers' products
    expert_width: float
    # micro: bytes through memory
    weight_bytes: float  # read twice, and their gradient read and written
    element_bytes: float  # norms, activations, residuals, rotations
    routed_bytes: float  # the way to the experts and back, and their activations
    score_bytes: float  # attention scores that are written out (0 with FlashAttention, arXiv 2205.14135)
    # micro: seconds at the rated bandwidth
    tensor_wire: float
    context_wire: float
    expert_wire: float  # within an NVLink domain
    expert_far_wire: float  # beyond it
    pipeline_wire: float
    gather_wire: float  # ZeRO-3: weights gathered, gradients scattered
    # micro: kernels are launched for so many layers
    dense_layers: float
    moe_layers: float
    local_experts: float  # in all of them together
    # step
    micro_batches: float
    bubble: float  # micro-batches that a rank idles
    data_wire: float
    optimiser_bytes: float
    spread: float  # doublings of the number of nodes that a data-parallel collective runs over


def stage_layers(shape: Shape, layout: Layout) -> tuple[int, int]:
    """Layers on a middle stage and on the last, which has the head. If the layers do not divide evenly over the chunks,
    embedding and head count as a layer each, as Llama 3 405B was laid out (arXiv 2407.21783, section 3.3.2)."""
    layers, chunks = shape.layers + shape.mtp_layers, layout.pipeline * layout.virtual
    if layers % chunks == 0:
        return layers // layout.pipeline, layers // layout.pipeline
    middle = math.ceil((layers + 2) / layout.pipeline)
    last = max(1, layers - 1 - middle * (layout.pipeline - 2) - (middle - 1) if layout.pipeline > 1 else layers)
    return min(middle, layers), min(last, layers)


def bandwidth(gpu: GPU, size: int, stride: int) -> float:
    """Bytes/s that each of `size` ranks, `stride` apart, can move in a ring. Within an NVLink domain it is NVLink's;
    beyond it, all ranks of the group in a domain feed its network adapters together: NCCL's rings enter a node once."""
    if size * stride <= gpu.domain:
        return gpu.nvlink * 1e9
    together = max(1, min(size, gpu.domain // stride))
    return min(gpu.nvlink, together * gpu.network) * 1e9


def _nodes(gpu: GPU, size: int, stride: int) -> float:
    return max(1.0, size * stride / gpu.domain)


def work_of(
    shape: Shape,
    layout: Layout,
    gpu: GPU,
    sequence_length: int,
    *,
    flash: bool = True,
    once_a_node: bool = True,
) -> Work:
    x = layout
    tokens = x.micro_batch * sequence_length / x.context
    middle, last = stage_layers(shape, x)
    # Passes over the layers, in units of a forward pass: a backward pass is two (arXiv 2205.05198, appendix A).
    passes = 3.0 + (x.recompute_share if x.recompute == "full" else 0.0)
    moe = shape.moe_layers > 0
    per_token = shape.attention + (
        shape.router + shape.shared + shape.chosen * shape.expert if moe else shape.dense_ffn
    )
    attention_each = (shape.qk + shape.v) * sequence_length  # forward, causal: 2 x (qk + v) x length / 2
    layer_flops = passes * (2 * per_token + attention_each)
    head_flops = 3 * 2 * shape.head * (1 + shape.mtp_layers)
    busiest_last = x.pipeline == 1 or last * layer_flops + head_flops >= middle * layer_flops
    layers = last if busiest_last else middle
    moe_layers: float
    dense_layers: float
    if x.pipeline == 1:
        moe_layers = min(layers, shape.moe_layers + (shape.mtp_layers if moe else 0))
        dense_layers = layers - moe_layers
    else:
        # Models with a few dense layers have them first; those with one in two have both kinds everywhere.
        few = shape.dense_layers <= 3 and moe
        moe_layers = layers * (1.0 if few else shape.moe_layers / shape.layers)
        dense_layers = layers - moe_layers
    mean_layers = (shape.layers + shape.mtp_layers) / x.pipeline
    worst_cost = layers * layer_flops + (head_flops if busiest_last else 0)
    mean_cost = mean_layers * layer_flops + head_flops / x.pipeline

    split = x.tensor
    linear = dense_layers * (shape.attention + shape.dense_ffn) + moe_layers * (
        shape.attention + shape.router + shape.shared
    )
    head = (head_flops if busiest_last else 0) * tokens / split
    if busiest_last and shape.mtp_layers:
        linear += shape.mtp_layers * shape.mtp_extra
    full = layers * shape.full_attention_layers / shape.layers
    again = passes - 3.0 if x.recompute != "selective" else 1.0
    attention_passes = 3.5 + again  # FlashAttention's backward pass is 2.5
    local_experts = moe_layers * shape.experts / x.expert * shape.expert / x.expert_tensor
    local = linear / split

    h = shape.hidden
    kv = shape.kv_sent if shape.kv_sent < shape.qk else shape.qk
    normed = 10 * h  # norms and residuals: read and written, twice a layer
    gathered = 4 * h  # what column- and row-parallel products read and write whole
    rotated = 2 * (shape.qk + kv) + 2 * shape.v
    element = layers * (gathered + normed / (split if x.sequence_parallel else 1) + rotated / split)
    element += dense_layers * 1.5 * shape.dense_width / split
    element += moe_layers * 1.5 * shape.shared_width / split
    routed = moe_layers * (shape.chosen * (6 * h + 1.5 * shape.expert_width) + 4 * shape.experts) / split
    element_bytes = 2.0 * passes * tokens * element
    if busiest_last:
        element_bytes += 3 * 4.0 * tokens * shape.vocab * (1 + shape.mtp_layers) / split
    # Scores, mask, softmax, dropout, in half precision, read and written forward and backward.
    score_bytes = 0.0 if flash else 2.0 * 4 * passes * layers * shape.heads / split * tokens * sequence_length

    # Tensor parallelism: through attention, and through a dense MLP or the shared expert, in each pass.
    reduces = (2 * dense_layers + (1 + (shape.shared > 0)) * moe_layers) * (passes - 1)
    tensor_wire = reduces * communication.tensor(tokens, h, split) / bandwidth(gpu, split, 1)
    if shape.kv_sent < shape.qk:
        context_bytes = layers * communication.context_latents(tokens, shape.kv_sent, x.context)
    else:
        context_bytes = layers * communication.context_ring(tokens, kv, x.context) / split
    context_wire = context_bytes / bandwidth(gpu, x.context, split)
    # To the experts and back, in each pass but the recomputed one.
    near, far = _expert_wires(shape, x, gpu, tokens / split, once_a_node)
    expert_wire, expert_far_wire = 4 * moe_layers * near, 4 * moe_layers * far
    pipeline_wire = 0.0
    if x.pipeline > 1:
        sent = communication.pipeline(tokens, h, x.virtual) / split
        pipeline_wire = sent / (gpu.nvlink * 1e9 if x.gpus <= gpu.domain else gpu.network * 1e9)

    stride = x.tensor * x.context
    group = min(x.shard_ranks or x.data, x.data)
    held = local + (head_flops / 6 / split if busiest_last else 0)
    if x.pipeline == 1 and not shape.tied:
        held += shape.head / split
    expert_stride = max(1, stride * x.data // x.expert_data)
    sharded = communication.sharded_fully if x.shard == 3 else communication.sharded_once
    shard_wire = sharded(held, group) / bandwidth(gpu, group, stride)
    shard_wire += sharded(local_experts, x.expert_data) / bandwidth(gpu, x.expert_data, expert_stride)
    gather_wire, data_wire = (shard_wire, 0.0) if x.shard == 3 else (0.0, shard_wire)
    if x.shard == 3 and group < x.data:
        groups = x.data // group
        data_wire = communication.replicas(held, group, groups) / bandwidth(gpu, groups, stride * group)
    owners = x.data * x.context if x.shard else 1
    expert_owners = x.expert_data if x.shard else 1
    return Work(
        linear_flops=2 * passes * tokens * linear / split,
        expert_flops=2 * passes * tokens * moe_layers * shape.chosen * shape.expert / split,
        head_flops=head,
        linear_width=min(h, max(shape.v, shape.dense_width / 3) / split),
        expert_width=min(h, shape.expert / max(1, shape.hidden) / 3 / x.expert_tensor) if moe else h,
        attention_flops=attention_passes * attention_each * full * tokens / split,
        weight_bytes=(2 * WEIGHT_BYTES + 2 * GRADIENT_BYTES) * (local + local_experts),
        element_bytes=element_bytes,
        routed_bytes=2.0 * passes * tokens * routed,
        score_bytes=score_bytes,
        tensor_wire=tensor_wire,
        context_wire=context_wire,
        expert_wire=expert_wire,
        expert_far_wire=expert_far_wire,
        pipeline_wire=pipeline_wire,
        gather_wire=gather_wire,
        dense_layers=dense_layers * passes / 3,
        moe_layers=moe_layers * passes / 3,
        local_experts=moe_layers * passes / 3 * shape.experts / x.expert,
        micro_batches=x.micro_batches,
        bubble=(x.pipeline - 1) / x.virtual * mean_cost / worst_cost,
        data_wire=data_wire,
        # AdamW in float32: weight, gradient and two moments read, weight and moments written, and the bf16 weight.
        optimiser_bytes=30.0 * (held / owners + local_experts / expert_owners),
        spread=math.log2(_nodes(gpu, group, stride)),
    )


def _expert_wires(shape: Shape, x: Layout, gpu: GPU, tokens: float, once: bool) -> tuple[float, float]:
    """Seconds of one all-to-all over NVLink and over the network. Over the network a token goes to each of its experts,
    or once to each node that it has experts on (arXiv 2412.19437, section 3.2.2), then on over NVLink."""
    if x.expert == 1 or not shape.experts:
        return 0.0, 0.0
    near = communication.experts(tokens, shape.hidden, shape.chosen, x.expert) / (gpu.nvlink * 1e9)
    nodes = x.expert * x.expert_tensor / gpu.domain
    if nodes <= 1:
        return near, 0.0
    reached = nodes * (1 - (1 - 1 / nodes) ** shape.chosen)  # expected, experts drawn evenly
    reached = min(reached, max(1.0, nodes * shape.chosen_groups / shape.groups))
    reached = reached if once else shape.chosen
    return near, tokens * shape.hidden * WEIGHT_BYTES * reached * (nodes - 1) / nodes / (gpu.network * 1e9)
