"""Pipeline parallelism: the ranks of a group hold layers one after another, and micro-batches pass through them.

A rank's model is the whole one without what other ranks hold: names, and so optimisers and checkpoints, stay as they
are. Every rank reads the tokens itself, so that only hidden states travel, and their gradients back.

MTP predicts from the embeddings of targets, on the last stage. It has a copy of the embedding, whose gradient is summed
with that of the first stage's, so that both take the same steps (as DeepSeek-V3 shares them, arXiv 2412.19437, section
2.2; there by laying both on one rank).

B rows of a micro-batch, L length, D hidden.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kiban.artifacts.errors import KibanError
from kiban.model.config import ModelConfig
from kiban.model.layers import wide
from kiban.model.transformer import Sample, Transformer, total_loss
from kiban.training.context_parallel import Context
from kiban.training.pipeline_schedule import Action, ScheduleName, Table, schedule
from kiban.training.weight_gradients import Later


@dataclass(frozen=True)
class Stage:
    """`first` has the embedding, `last` norm, head and MTP."""

    layers: range
    first: bool
    last: bool


def stages_of(config: ModelConfig, number: int, layers: tuple[int, ...] | None = None) -> list[Stage]:
    """`layers` in each stage, or as evenly as it goes if embedding, head and an MTP layer count as a layer each
    (DeepSeek-V3 and Megatron count so).

    Raises:
        KibanError: if there are more stages than that, or `layers` are not those of the model.
    """
    total = config.num_hidden_layers
    if layers is None:
        units = total + 2 + config.num_nextn_predict_layers
        if number > units:
            raise KibanError(
                f"{number} pipeline stages for {total} layers: at most {units}, where embedding and head count as "
                "layers; lower pipeline or virtual"
            )
        ends = [min(max(units * (i + 1) // number - 1, 0), total) for i in range(number - 1)] + [total]
    else:
        if len(layers) != number or sum(layers) != total or min(layers) < 0:
            raise KibanError(
                f"layers of the pipeline stages {list(layers)}: must be {number} numbers with the sum {total}, the "
                "layers of the model"
            )
        ends = [sum(layers[: i + 1]) for i in range(number)]
    return [
        Stage(range(start, end), i == 0, i == number - 1)
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def cut(model: Transformer, stages: list[Stage], rank: int, ranks: int) -> None:
    """Takes from the model what is in none of the rank's stages, which are every `ranks`-th. What an MTP layer needs of
    the embedding stays."""
    own = stages[rank::ranks]
    if not any(stage.last for stage in own):
        model.norm = model.lm_head = model.mtp = None  # type: ignore[assignment]
    if model.mtp is None and not any(stage.first for stage in own):
        model.embed_tokens = None  # type: ignore[assignment]
    kept = {layer for stage in own for layer in stage.layers}
    for layer in set(range(len(model.layers))) - kept:
        model.layers[layer] = None  # type: ignore[assignment]


class Pipeline:
    """Micro-batches through `stages`, which are dealt out to the ranks of `group`, one after another and round again;
    all of them are here if there is no group. `model` is what `cut` left, sharded or not; hidden states are in
    `tensor` parts. All ranks make theirs together."""

    def __init__(
        self,
        model: Transformer,
        context: Context,
        stages: list[Stage] | None = None,
        group: dist.ProcessGroup | None = None,
        name: ScheduleName = "1f1b",
        tensor: int = 1,
    ) -> None:
        self.model, self.context, self.group, self.name, self.tensor = model, context, group, name, tensor
        self.stages = stages if stages is not None else stages_of(model.config, 1)
        self.rank, self.ranks = (group.rank(), group.size()) if group is not None else (0, 1)
        assert len(self.stages) % self.ranks == 0
        mtp = model.config.num_nextn_predict_layers
        self.num_moe = model.config.num_hidden_layers - model.config.first_k_dense_replace + mtp
        self._copied = self.ranks > 1 and mtp > 0 and self.rank in (0, self.ranks - 1)
        self.messages = _Messages(group, len(self.stages)) if group is not None and self.ranks > 1 else None
        context.attach(model)
        register_fsdp_forward_method(model, "part")  # does nothing where FSDP has no part in it

    def backward(
        self, tokens_BX: Tensor, micro_rows: int, share: float, balance_weight: float, mask_documents: bool = False
    ) -> dict[str, Tensor]:
        """The gradient of the mean loss over the rows times `share` is added to that of the model, `micro_rows` rows at
        a time. Gives the parts of the loss that arose on this rank, times `share`: their sums over the ranks of the
        pipeline and of the context are those of the whole rows."""
        parts = tokens_BX.split(micro_rows)
        samples = [self.context.sample(part, mask_documents) for part in parts]
        shares = [share * len(part) / len(tokens_BX) for part in parts]
        table = schedule(self.name, self.ranks, len(self.stages) // self.ranks, len(parts))
        step = _Step(self, table, samples, shares, balance_weight)
        with _reduced_once(self.model):
            step.run()
        self._sum_copies()
        return step.stats()

    def clip_grad_norm(self, most: float) -> Tensor:
        """Scales the gradients so that their norm over all stages is at most `most`; gives what it was."""
        counted = [
            parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and self.counts(name)
        ]
        norm = torch.nn.utils.get_total_norm(counted)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.ranks > 1:
            square = norm.square()
            dist.all_reduce(square, group=self.group)
            norm = square.sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), most, norm)
        return norm

    def counts(self, name: str) -> bool:
        """Whether a parameter is no copy of another stage's."""
        return not (self._copied and self.rank > 0 and name.startswith("embed_tokens"))

    def _sum_copies(self) -> None:
        """Of the embedding's gradient on the first stage and the last."""
        if not self._copied or self.group is None:
            return
        gradient = self.model.embed_tokens.weight.grad
        assert gradient is not None
        ours = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        other, theirs = dist.get_global_rank(self.group, self.ranks - 1 - self.rank), torch.empty_like(ours)
        swap = [dist.P2POp(dist.isend, ours.clone(), other), dist.P2POp(dist.irecv, theirs, other)]
        for work in dist.batch_isend_irecv(swap):
            work.wait()
        ours += theirs


class _Step:
    """One step's way through the table."""

    def __init__(
        self, pipeline: Pipeline, table: Table, samples: list[Sample], shares: list[float], balance_weight: float
    ) -> None:
        self.pipeline, self.samples, self.shares, self.balance_weight = pipeline, samples, shares, balance_weight
        self.table = table
        self.sums: dict[str, Tensor] = {}
        self._made: dict[tuple[int, int], tuple[Tensor | None, Tensor, Tensor | None]] = {}
        self._weights: dict[tuple[int, int], Later] = {}

    def run(self) -> None:
        p = self.pipeline
        order = self.table[p.rank]
        if p.messages is not None:
            p.messages.begin(self.table, self._buffer)
        for action, following in zip(order, [*order[1:], None], strict=True):
            if p.messages is not None and following is not None:
                p.messages.expect(action)
                p.messages.expect(following)  # it may come while we compute
            if action.kind == "F":
                self._forward(action)
            elif action.kind == "W":
                self._weights.pop((action.stage, action.micro)).take()
            else:
                self._backward(action)
        if p.messages is not None:
            p.messages.finish()

    def stats(self) -> dict[str, Tensor]:
        """The same names on all ranks."""
        p, config = self.pipeline, self.pipeline.model.config
        names = ["loss"] + ["mtp_loss"] * config.num_nextn_predict_layers
        names += ["balance_loss"] * (self.balance_weight > 0 and p.num_moe > 0)
        dtype = wide(self._buffer(0)).dtype
        device = self.samples[0].tokens_BL.device
        found = {name: self.sums.get(name, torch.zeros((), dtype=dtype, device=device)) for name in names}
        if "balance_loss" in found:
            found["balance_loss"] = found["balance_loss"] / p.num_moe
        return found

    def _buffer(self, micro: int) -> Tensor:
        tokens_BL, model = self.samples[micro].tokens_BL, self.pipeline.model
        B, L = tokens_BL.shape
        size = (B, L // self.pipeline.tensor, model.config.hidden_size)
        return torch.empty(size, dtype=model.dtype, device=tokens_BL.device)

    def _forward(self, action: Action) -> None:
        p, sample = self.pipeline, self.samples[action.micro]
        stage = p.stages[action.stage]
        x_BLD = None
        if not stage.first:
            assert p.messages is not None
            x_BLD = p.messages.receive(action).requires_grad_()
        later = Later() if p.name == "zero-bubble" else None
        with later or nullcontext():
            out_BLD, losses = p.model.part(x_BLD, sample, self.balance_weight > 0, stage.layers, stage.last)
        parts = p.context.shares(sample)
        losses = {name: loss * (self.shares[action.micro] * parts[name]) for name, loss in losses.items()}
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach()
        if later is not None:
            self._weights[action.stage, action.micro] = later
        total = total_loss(losses, self.balance_weight) if losses else None
        self._made[action.stage, action.micro] = (x_BLD, out_BLD, total)
        if not stage.last:
            assert p.messages is not None
            p.messages.send(action, out_BLD.detach())

    def _backward(self, action: Action) -> None:
        p, stage = self.pipeline, self.pipeline.stages[action.stage]
        x_BLD, out_BLD, total = self._made.pop((action.stage, action.micro))
        ends: list[tuple[Tensor, Tensor | None]] = [] if total is None else [(total, None)]
        if not stage.last:
            assert p.messages is not None
            ends.append((out_BLD, p.messages.receive(action)))
        torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])
        if x_BLD is not None:
            assert x_BLD.grad is not None and p.messages is not None
            p.messages.send(action, x_BLD.grad)


Link = tuple[Literal["hidden", "gradient"], int]  # what, and from whom


class _Messages:
    """Between neighbouring stages: hidden states forward, their gradients backward.

    Two ranks have a channel for each kind and direction, and what is sent on it is received in the order in which the
    sender's table has it, so that no two messages wait for each other, whatever orders them on the device.
    """

    def __init__(self, group: dist.ProcessGroup, stages: int) -> None:
        self._rank, self._ranks, self._stages = group.rank(), group.size(), stages
        self._place = [dist.get_global_rank(group, rank) for rank in range(group.size())]
        # Of one group, a device orders all messages between two ranks; between two ranks alone, both directions.
        kinds = ["hidden", "gradient"] if self._ranks > 2 else ["hidden 0", "hidden 1", "gradient 0", "gradient 1"]
        self._groups = {kind: dist.new_group(self._place, use_local_synchronization=True) for kind in kinds}

    def _group(self, link: Link) -> dist.ProcessGroup:
        kind, sender = link
        return self._groups[kind if self._ranks > 2 else f"{kind} {sender}"]

    def begin(self, table: Table, buffer: Callable[[int], Tensor]) -> None:
        """A step. `buffer` makes room for what comes of a micro-batch."""
        self._buffer = buffer
        # The actions that wait for a message of each link, in the order of the sender's.
        self._due: dict[Link, Iterator[Action]] = {}
        for rank, order in enumerate(table):
            ahead = [Action("F", a.stage + 1, a.micro) for a in order if a.kind == "F" and a.stage + 1 < self._stages]
            back = [Action(a.kind, a.stage - 1, a.micro) for a in order if a.kind in "BI" and a.stage > 0]
            self._due |= {("hidden", rank): iter(ahead), ("gradient", rank): iter(back)}
        self._coming: dict[Action, tuple[dist.Work, Tensor]] = {}
        self._sent: list[tuple[dist.Work, Tensor]] = []

    def expect(self, action: Action) -> None:
        """Posts the receives up to the one that the action waits for, if it waits for one."""
        if action.kind == "W" or action.stage == (0 if action.kind == "F" else self._stages - 1):
            return
        sender = (action.stage + (-1 if action.kind == "F" else 1)) % self._ranks
        link: Link = ("hidden" if action.kind == "F" else "gradient", sender)
        while action not in self._coming:
            due = next(self._due[link])
            buffer = self._buffer(due.micro)
            work = dist.irecv(buffer, self._place[sender], self._group(link))
            assert work is not None
            self._coming[due] = (work, buffer)

    def receive(self, action: Action) -> Tensor:
        self.expect(action)
        work, buffer = self._coming.pop(action)
        work.wait()
        return buffer

    def send(self, action: Action, x: Tensor) -> None:
        """What the action made, to the stage that waits for it."""
        forward = action.kind == "F"
        link: Link = ("hidden" if forward else "gradient", self._rank)
        x = x.contiguous()
        receiver = (action.stage + (1 if forward else -1)) % self._ranks
        work = dist.isend(x, self._place[receiver], self._group(link))
        assert work is not None
        self._sent = [(old, kept) for old, kept in self._sent if not old.is_completed()] + [(work, x)]

    def finish(self) -> None:
        for work, _ in self._sent:
            work.wait()
        assert not self._coming


@contextmanager
def _reduced_once(model: Transformer) -> Iterator[None]:
    """Where FSDP holds the model: gradients are summed over its ranks at the end, not after each micro-batch, and with
    those that were taken later."""
    if not isinstance(model, FSDPModule):
        yield
        return

    def set_last(last: bool) -> None:
        model.set_is_last_backward(last)
        model.set_reshard_after_backward(last)
        model.set_requires_gradient_sync(last)

    set_last(False)
    yield
    set_last(True)
    # What autograd would call at the end of a backward pass; torch.distributed.pipelining does the same.
    model._get_fsdp_state()._root_post_backward_final_callback()
