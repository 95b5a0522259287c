"""A dry run: the real model, cut up by the real code, takes one step on fake tensors as one rank of many.

What it cannot see: values (routing is forced to balance), buffers of NCCL, workspaces of kernels, what an allocator
loses, and time, which is the cost model's. Attention is taken for a fused kernel's, and the loss in the chunks of a
GPU, though the fake tensors are a CPU's: PyTorch makes them for no other device without CUDA.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from kiban.artifacts.errors import KibanError
from kiban.model.config import ModelConfig
from kiban.planning.layout import Layout, fault
from kiban.planning.shape import shape_of

KINDS = ("weights", "gradients", "optimiser", "activations", "communication")


@dataclass(frozen=True)
class Sum:
    """Collectives of a kind, over an axis, in a step."""

    op: str
    axis: str
    ranks: int
    count: int
    bytes: int  # that the rank sends


@dataclass(frozen=True)
class DryRun:
    parameters: int  # of the whole model
    active_parameters: int
    memory_bytes: dict[str, int]  # of the rank, by kind, when it holds the most; and `total`
    collectives: list[Sum]
    flops: int  # of the rank, matrix products and attention
    seconds: float  # that the dry run took


def dryrun(config: ModelConfig, layout: Layout, rank: int, length: int) -> DryRun:
    """`length` of a sequence, in tokens.

    Raises:
        KibanError: if the layout is impossible, or asks for what the training code cannot do.
    """
    wrong = fault(shape_of(config), layout, length)
    if wrong:
        raise KibanError(f"this layout is impossible: {wrong}")
    if not 0 <= rank < layout.gpus:
        raise KibanError(f"--rank {rank}: there are ranks 0 to {layout.gpus - 1}")
    for name in ("tensor", "expert", "expert_tensor"):
        if getattr(layout, name) > 1:
            raise KibanError(f"{name} = {getattr(layout, name)}: the training code cannot do that")
    if layout.recompute != "none":
        raise KibanError(f'recompute = "{layout.recompute}": the training code keeps all activations')
    from torch._subclasses.fake_tensor import FakeTensorMode

    from kiban.planning.counting import Counter

    start = time.perf_counter()
    counter = Counter()
    with _fake_ranks(rank, layout.gpus), _kernels_of_a_gpu(counter):
        meshes = _Meshes(layout)  # whose tables are no fake tensors
        counter.axis_of = meshes.axis_of
        with FakeTensorMode():
            step = _Step(config, layout, length, meshes)
            with counter.counting():
                counter.mark(step.weights(), "weights")
                for _ in range(2):  # only from the second step on there is the optimiser's state beside all else
                    counter.collectives.clear()
                    counter.flops = 0
                    step.run(counter)
    parameters = config.parameters()
    memory = {kind: counter.peak.get(kind, 0) for kind in KINDS}
    sums = defaultdict[tuple[str, str, int], list[int]](list)
    for one in counter.collectives:
        sums[one.op, one.axis, one.ranks].append(one.bytes)
    return DryRun(
        parameters=parameters.total,
        active_parameters=parameters.active,
        memory_bytes=memory | {"total": sum(memory.values())},
        collectives=[Sum(*key, len(each), sum(each)) for key, each in sorted(sums.items())],
        flops=counter.flops,
        seconds=time.perf_counter() - start,
    )


class _Meshes:
    """Ranks by axis: those of a pipeline farthest apart, those of a context next to each other."""

    def __init__(self, layout: Layout) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        within = min(layout.shard_ranks or layout.data, layout.data)
        sizes = {"pipeline": layout.pipeline, "replica": layout.data // within, "data": within}
        sizes["context"] = layout.context
        self.mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.shard = self.mesh["data", "context"]._flatten("shard")
        self.sharded = self.mesh["replica", "shard"] if sizes["replica"] > 1 else self.shard
        self._axes = {_ranks_of(self.mesh.get_group(name)): name for name, size in sizes.items() if size > 1}
        self._axes[_ranks_of(self.shard.get_group())] = "shard" if layout.context == 1 or within > 1 else "context"

    def axis_of(self, ranks: tuple[int, ...]) -> str:
        return self._axes.get(ranks, "pipeline")  # whose links are pairs of ranks


def _ranks_of(group: Any) -> tuple[int, ...]:
    import torch.distributed as dist

    return tuple(dist.get_process_group_ranks(group))


class _Step:
    """The model of one rank and a step of it."""

    def __init__(self, config: ModelConfig, layout: Layout, length: int, meshes: _Meshes) -> None:
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        from kiban.model.transformer import Transformer
        from kiban.training.context_parallel import Context
        from kiban.training.optimiser import optimisers
        from kiban.training.pipeline import Pipeline, keep, stages_of

        self.layout, self.length = layout, length
        mesh = meshes.mesh
        group = mesh.get_group("pipeline") if layout.pipeline > 1 else None
        self.model = Transformer(config)
        self.model.dtype = torch.bfloat16
        self.model.train()
        stages = stages_of(config, layout.pipeline * layout.virtual)
        keep(self.model, stages[mesh.get_local_rank("pipeline") :: layout.pipeline])
        if layout.data * layout.context > 1:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
            for block in [*self.model.layers, self.model.mtp]:
                if block is not None:
                    fully_shard(block, mesh=meshes.sharded, mp_policy=policy)
            fully_shard(self.model, mesh=meshes.sharded, mp_policy=policy)
        context = Context(length, mesh.get_group("context") if layout.context > 1 else None)
        self.pipeline = Pipeline(self.model, context, group, virtual=layout.virtual)
        self.optimisers = optimisers(self.model, "adamw", 1e-4, 0.1)

    def weights(self) -> list[Any]:
        return [*self.model.parameters(), *self.model.buffers()]

    def run(self, counter: Any) -> None:
        import torch

        x = self.layout
        rows = x.micro_batches * x.micro_batch
        counter.phase = "activations"
        self.pipeline.backward(torch.zeros(rows, self.length + 1, dtype=torch.int64), x.micro_batch, 1 / x.data, 0.0)
        counter.mark((weight.grad for weight in self.model.parameters()), "gradients")
        self.pipeline.clip_grad_norm(1.0)
        counter.phase = "optimiser"
        for optimiser in self.optimisers:
            optimiser.step()
            counter.mark((x for state in optimiser.state.values() for x in state.values()), "optimiser")
            optimiser.zero_grad()
        self.model.update_routing_bias()


@contextmanager
def _fake_ranks(rank: int, world: int) -> Iterator[None]:
    """A process group that answers without sending anything."""
    import torch.distributed as dist

    if dist.is_initialized():
        raise KibanError("a dry run needs a process of its own: this one is part of a process group")
    dist.init_process_group("fake", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _kernels_of_a_gpu(counter: Any) -> Iterator[None]:
    from kiban.model import attention, loss

    chunks = {**loss.CHUNK_LOGITS, "cpu": loss.CHUNK_LOGITS["other"]}
    with (
        patch.object(attention, "causal_attention", _fused_attention(counter)),
        patch.object(loss, "CHUNK_LOGITS", chunks),
    ):
        yield


def _fused_attention(counter: Any) -> Any:
    """Takes, keeps and gives what FlashAttention does (arXiv 2205.14135): queries, keys, values, the output, and a
    logarithm for each query. Its backward pass computes the scores again: two and a half times the forward pass."""
    import torch
    from torch import Tensor

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
            out = q_BHLK.new_empty(*q_BHLK.shape[:3], v_BHSV.shape[-1])
            # Scores and values, a multiplication and an addition each, of half of the square if queries see all keys.
            pairs = q_BHLK.shape[:3].numel() * (k_BHSK.shape[2] - q_BHLK.shape[2] / 2)
            ctx.flops = 2 * pairs * (q_BHLK.shape[3] + v_BHSV.shape[3])
            counter.flops += int(ctx.flops)
            ctx.save_for_backward(q_BHLK, k_BHSK, v_BHSV, out, q_BHLK.new_empty(q_BHLK.shape[:3], dtype=torch.float32))
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v, _, _ = ctx.saved_tensors
            counter.flops += int(2.5 * ctx.flops)
            return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def fused(q: Tensor, k: Tensor, v: Tensor, scale: float, *_: Any) -> Tensor:
        return Fused.apply(q, k, v)

    return fused
