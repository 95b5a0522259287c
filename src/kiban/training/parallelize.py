"""Applies a layout to the model, from outside: the model's file knows nothing of it.

The ranks are one mesh, seen in three ways, from the slowest links to the fastest:

    pipeline x replica x data x context x tensor                 who reads which rows, and which part of them
    pipeline x replica x (data x context = shard) x tensor       weights that tensor parallelism cuts
    pipeline x replica x owners x expert                         experts
    pipeline x replica x fold                                    all other weights

FSDP shards each weight over the ranks that see other tokens with it, which sums its gradient: `shard`, `owners` or
`fold`. Losses are means over all tokens of a step, and each rank's part is weighted as such, so that nothing is
averaged after.
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from kiban.model.attention import Attention
from kiban.model.layout import Layout
from kiban.model.moe import Experts, MoE, Router
from kiban.model.transformer import Transformer
from kiban.training.context_parallel import Context, balance_over
from kiban.training.expert_parallel import ExpertParallel, balanced_choice
from kiban.training.layout import check_layout, shard_ranks
from kiban.training.pipeline import Pipeline, cut, stages_of
from kiban.training.pipeline_schedule import ScheduleName
from kiban.training.tensor_parallel import Tensors


@dataclass(frozen=True)
class Meshes:
    """See the head of this file. `rows` are the ranks that have the same heads, `stage` those of a pipeline stage."""

    ranks: DeviceMesh  # pipeline, replica, data, context, tensor
    split: DeviceMesh  # replica?, shard, tensor
    sparse: DeviceMesh  # replica?, owners, expert
    folded: DeviceMesh  # replica?, fold
    stage: dist.ProcessGroup
    rows: dist.ProcessGroup
    sequence: dist.ProcessGroup | None  # the ranks that share a sequence: context and tensor

    @property
    def data_rank(self) -> int:
        """Which part of a batch's rows this rank reads."""
        replica, data = (self.ranks.get_local_rank(name) for name in ("replica", "data"))
        return replica * self.ranks["data"].size() + data


def meshes(layout: Layout, device: str = "cpu") -> Meshes:
    """Collective. The process group is that of `layout.gpus` ranks."""
    x, data = layout, shard_ranks(layout)
    replica = x.data // data
    shard = data * x.context
    world = init_device_mesh(device, (x.gpus,), mesh_dim_names=("world",))

    def seen(**sizes: int) -> DeviceMesh:
        whole = {"pipeline": x.pipeline, "replica": replica, **sizes}
        return world._unflatten(0, tuple(whole.values()), tuple(whole))

    ranks = seen(data=data, context=x.context, tensor=x.tensor)
    split, folded = seen(shard=shard, tensor=x.tensor), seen(fold=shard * x.tensor)
    sparse = seen(owners=shard * x.tensor // x.expert, expert=x.expert)
    rows = world._unflatten(0, (x.pipeline, replica * shard, x.tensor), ("pipeline", "rows", "tensor"))
    stage = world._unflatten(0, (x.pipeline, x.gpus // x.pipeline), ("pipeline", "stage"))
    shared = x.context * x.tensor
    sequences = seen(data=data, sequence=shared)["sequence"].get_group() if shared > 1 else None
    return Meshes(
        ranks, split, sparse, folded, stage["stage"].get_group(), rows["rows"].get_group(), sequences
    )  # fmt: skip


class Parallel:
    """One rank's part of a model and of its steps."""

    def __init__(self, pipeline: Pipeline, layout: Layout, meshes: Meshes) -> None:
        self.model, self.pipeline, self.layout, self.meshes = pipeline.model, pipeline, layout, meshes
        self.own_losses = torch.zeros(0)  # what this rank had of the last ones

    def rows(self, batch: int) -> range:
        """Those of a batch that this rank reads."""
        each = batch // self.layout.data
        return range(self.meshes.data_rank * each, (self.meshes.data_rank + 1) * each)

    def backward(
        self, tokens_BX: Tensor, micro_rows: int, balance_weight: float = 0.0, mask_documents: bool = False
    ) -> dict[str, Tensor]:
        """The gradient of the mean loss over the whole batch, of which these are this rank's rows. Gives what
        `Transformer.loss` tells, of the whole batch, on every rank. Before it, gradients are to be None."""
        stats = self.pipeline.backward(tokens_BX, micro_rows, 1 / self.layout.data, balance_weight, mask_documents)
        values = torch.stack(
            [value if name == "balance_loss" else value / self.layout.tensor for name, value in stats.items()]
        )
        self.own_losses = values.clone()
        dist.all_reduce(values)
        return dict(zip(stats, values.unbind(), strict=True))

    def clip_grad_norm(self, most: float) -> Tensor:
        """Scales the gradients so that their norm over all ranks is at most `most`; gives what it was."""
        square = torch.zeros((), device=next(self.model.parameters()).device)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and self.pipeline.counts(name):
                local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                square = square + local.square().sum()
        # Each replica has all of it.
        square = square / self.meshes.ranks["replica"].size()
        dist.all_reduce(square)
        norm = square.sqrt()
        scale = (most / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
                local.mul_(scale)
        return norm

    def sum_counts(self) -> None:
        """After the forward passes of a step: loads of experts and largest logits become those of all ranks."""
        moes = [module for module in self.model.modules() if isinstance(module, MoE)]
        if moes:
            load_NE = torch.stack([moe.load_E for moe in moes])
            dist.all_reduce(load_NE, group=self.meshes.stage)
            for moe, load_E in zip(moes, load_NE, strict=True):
                moe.load_E.copy_(load_E)
        watched = [m for m in self.model.modules() if isinstance(m, Attention) and m.max_logit_H is not None]
        if watched:
            most_NH = torch.stack([m.max_logit_H for m in watched if m.max_logit_H is not None])
            dist.all_reduce(most_NH, dist.ReduceOp.MAX, self.meshes.rows)
            for attention, most_H in zip(watched, most_NH, strict=True):
                attention.max_logit_H = most_H


def parallelize(
    model: Transformer,
    layout: Layout,
    length: int,
    batch: int,
    device: str = "cpu",
    balanced: bool = False,
) -> Parallel:
    """Cuts up `model`, whose weights are the same on every rank, for `layout.gpus` ranks, which have a process group.
    Steps are of `batch` sequences of `length` tokens. Nothing is sent but what makes the groups. With `balanced`
    routing is forced to balance, and no size depends on data: it runs on fake tensors too.

    Raises:
        KibanError: if they do not divide, naming the size.
    """
    check_layout(model.config, layout, length, batch)
    with unset_fake_temporarily():  # meshes are made of real numbers; weights that are fake stay it
        mesh = meshes(layout, device)
        stages = stages_of(model.config, layout.pipeline * layout.virtual)
        cut(model, stages, mesh.ranks.get_local_rank("pipeline"), layout.pipeline)
        for moe in (module for module in model.modules() if isinstance(module, MoE)):
            if balanced:
                _force_balance(moe.gate)
            if layout.expert > 1:
                _split_experts(moe, mesh.sparse["expert"], balanced)
        split = Tensors(mesh.split["tensor"]).apply(model) if layout.tensor > 1 else []
        if layout.gpus > layout.pipeline:
            _shard(model, layout, mesh, split)
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        attention.scale_rows = _scale_rows  # type: ignore[method-assign]
    context = Context(length, mesh.ranks["context"].get_group() if layout.context > 1 else None)
    assert layout.schedule in get_args(ScheduleName)
    pipeline = Pipeline(
        model,
        context,
        stages,
        mesh.ranks["pipeline"].get_group() if layout.pipeline > 1 else None,
        layout.schedule,  # type: ignore[arg-type]
        layout.tensor,
    )
    if layout.tensor > 1:
        balance_over(model, mesh.sequence)
    return Parallel(pipeline, layout, mesh)


def _split_experts(moe: MoE, mesh: DeviceMesh, balanced: bool) -> None:
    rank, ranks = mesh.get_local_rank(), mesh.size()
    for name, weight_EOI in list(moe.experts.named_parameters()):
        part = weight_EOI.detach().chunk(ranks)[rank].clone()
        setattr(moe.experts, name, nn.Parameter(DTensor.from_local(part, mesh, [Shard(0)], run_check=False)))
    inner = moe.experts
    moe.experts.forward = lambda x_PD, weight_P, ends_E: _experts_here(inner, x_PD, weight_P, ends_E)  # type: ignore[method-assign]
    moe.mixed = ExpertParallel(moe, mesh.get_group(), balanced)  # type: ignore[method-assign]


def _experts_here(experts: Experts, x_PD: Tensor, weight_P: Tensor, ends_E: Tensor) -> Tensor:
    gate_up, down = (w.to_local() if isinstance(w, DTensor) else w for w in (experts.gate_up_proj, experts.down_proj))
    return experts.of(gate_up, down, x_PD, weight_P, ends_E)


def _force_balance(router: Router) -> None:
    config = router.config
    router.choose = lambda score_TE: balanced_choice(  # type: ignore[method-assign]
        score_TE, config.n_routed_experts, config.num_experts_per_tok
    )


def _shard(model: Transformer, layout: Layout, mesh: Meshes, split: list[list[nn.Module]]) -> None:
    low = model.dtype if model.dtype in (torch.bfloat16, torch.float16) else None
    # Embedding, head and routers work in float32.
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    policy = MixedPrecisionPolicy(low, torch.float32 if low else None, cast_forward_inputs=False)
    hybrid = ("replica",) if mesh.ranks["replica"].size() > 1 else ()

    def shard(modules: Any, view: DeviceMesh, name: str, policy: MixedPrecisionPolicy, across: bool = False) -> None:
        fully_shard(
            modules,
            mesh=view[(*hybrid, name)],
            reshard_after_forward=layout.shard == 3,
            mp_policy=policy,
            shard_placement_fn=_across if across else None,
        )

    for moe in (module for module in model.modules() if isinstance(module, MoE)):
        shard(moe.experts, mesh.sparse, "owners", policy, across=layout.expert > 1)
        if low:
            shard(moe.gate, mesh.folded, "fold", exact)
    for group in split:
        outside = group[0] in (model.embed_tokens, model.lm_head)
        shard(group, mesh.split, "shard", exact if outside else policy, across=True)
    for block in [*model.layers, model.mtp]:
        if block is not None:
            shard(block, mesh.folded, "fold", policy)
    shard(model, mesh.folded, "fold", exact)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale a sum on its way, not even by 1


def _across(parameter: nn.Parameter) -> Shard | None:
    """FSDP cuts along the side that is still whole."""
    if isinstance(parameter, DTensor) and parameter.placements[0] == Shard(0):
        return Shard(1)
    return None


@torch.no_grad()
def _scale_rows(weight_OI: Tensor, scale_O: Tensor) -> None:
    """As `Attention.scale_rows`, of a weight that is cut. `scale_O`: of the heads that are here."""
    if not isinstance(weight_OI, DTensor):
        weight_OI.mul_(scale_O[:, None])
        return
    local = weight_OI.to_local()
    if len(local) != len(scale_O):  # heads are whole, and FSDP cut the rows
        _, offset = compute_local_shape_and_global_offset(weight_OI.shape, weight_OI.device_mesh, weight_OI.placements)
        scale_O = scale_O[offset[0] : offset[0] + len(local)]
    local.mul_(scale_O[:, None])
