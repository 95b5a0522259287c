"""A dry run: the real model, cut up by the real code, takes one step on fake tensors as one rank of many.

What it cannot see: values (routing is forced to balance), buffers of NCCL, workspaces of kernels, what an allocator
loses, and time, which is the cost model's. Attention is taken for a fused kernel's, and the loss in the chunks of a
GPU, though the fake tensors are a CPU's: PyTorch makes them for no other device without CUDA.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from kiban.artifacts.errors import KibanError
from kiban.model.communication import Held
from kiban.model.config import ModelConfig
from kiban.model.layout import Layout, fault
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
    from torch._subclasses.fake_tensor import FakeTensorMode

    from kiban.model.transformer import Transformer
    from kiban.planning.counting import Counter

    start = time.perf_counter()
    counter = Counter()
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # tables of ranks and positions are real
    with _fake_ranks(rank, layout.gpus), _kernels_of_a_gpu(counter):
        with fake:
            model = Transformer(config)
        step = _Step(model, layout, length)
        counter.axis_of = step.axis_of
        with fake, counter.counting(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.distributed\.")  # of hooks; training shows them
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


def held(config: ModelConfig, layout: Layout, rank: int) -> Held:
    """What of the model the rank's pipeline stages hold."""
    from kiban.training.pipeline import stages_of

    place = rank // (layout.gpus // layout.pipeline)
    own = stages_of(config, layout.pipeline * layout.virtual)[place :: layout.pipeline]
    layers = [layer for stage in own for layer in stage.layers]
    dense = sum(layer < config.first_k_dense_replace for layer in layers)
    first, last = (any(getattr(stage, end) for stage in own) for end in ("first", "last"))
    return Held(dense, len(layers) - dense, first, last)


class _Step:
    """The model of one rank and a step of it."""

    def __init__(self, model: Any, layout: Layout, length: int) -> None:
        import torch
        from torch.distributed import get_process_group_ranks

        from kiban.training.optimiser import optimisers
        from kiban.training.parallelize import parallelize

        self.layout, self.length = layout, length
        model.dtype = torch.bfloat16
        self.parallel = parallelize(model, layout, length, layout.global_batch, balanced=True)
        meshes = self.parallel.meshes
        self.model = model.train()
        self.axes: dict[tuple[int, ...], list[str]] = {}
        for mesh in (meshes.folded, meshes.sparse, meshes.split, meshes.ranks):
            for name in mesh.mesh_dim_names or ():
                if mesh[name].size() > 1:
                    ranks = tuple(get_process_group_ranks(mesh[name].get_group()))
                    self.axes.setdefault(ranks, []).append(name)
        self.optimisers = optimisers(self.model, "adamw", 1e-4, 0.1)

    def axis_of(self, op: str, ranks: tuple[int, ...]) -> str:
        """The same ranks may be several axes: then experts' all-to-all tells itself, and of the rest the first counts.
        What stands in no mesh are a pipeline's links, and sums of a few numbers over many ranks."""
        if op in ("send", "recv"):
            return "pipeline"
        names = self.axes.get(ranks, ["pipeline" if len(ranks) == 2 else "all"])
        return "expert" if op == "all_to_all" else names[0]

    def weights(self) -> list[Any]:
        return [*self.model.parameters(), *self.model.buffers()]

    def run(self, counter: Any) -> None:
        import torch

        x = self.layout
        rows = x.micro_batches * x.micro_batch
        counter.phase = "activations"
        self.parallel.backward(torch.zeros(rows, self.length + 1, dtype=torch.int64), x.micro_batch)
        counter.mark((weight.grad for weight in self.model.parameters()), "gradients")
        self.parallel.clip_grad_norm(1.0)
        counter.phase = "optimiser"
        for optimiser in self.optimisers:
            optimiser.step()
            counter.mark((x for state in optimiser.state.values() for x in state.values()), "optimiser")
            optimiser.zero_grad()
        self.parallel.sum_counts()
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
