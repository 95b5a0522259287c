"""How a model is laid out over ranks, and whether it can be. No torch: the planner weighs what training takes."""

from dataclasses import dataclass
from typing import Protocol

RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    """`gpus` = tensor x pipeline x context x data. Experts are spread over `expert` ranks taken out of tensor x context
    x data (arXiv 2504.14960, section 3)."""

    gpus: int
    tensor: int = 1
    pipeline: int = 1
    schedule: str = "1f1b"  # of the pipeline; or zero-bubble
    virtual: int = 1  # chunks of layers a rank holds, which interleave (arXiv 2104.04473, section 2.2)
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1  # ranks over which each expert's matrices are split
    micro_batch: int = 1  # sequences
    global_batch: int = 1  # sequences a step, all ranks
    shard: int = 1  # ZeRO's stage (arXiv 1910.02054): 0 nothing, 1 optimiser, 2 and gradients, 3 and weights
    shard_ranks: int | None = None  # of how many data-parallel ranks a shard's group is; None: all
    recompute: str = "none"
    recompute_share: float = 1.0  # of the layers, if it is full
    precision: str = "bf16"
    sequence_parallel: bool = True  # arXiv 2205.05198; only means something with tensor > 1

    @property
    def data(self) -> int:
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def micro_batches(self) -> int:
        """That a rank goes through in a step."""
        return max(1, self.global_batch // (self.data * self.micro_batch))

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same experts."""
        return max(1, self.gpus // (self.pipeline * self.expert * self.expert_tensor))

    def __str__(self) -> str:
        sizes = {
            "TP": self.tensor, "PP": self.pipeline, "VP": self.virtual, "EP": self.expert, "CP": self.context,
            "DP": self.data,
        }  # fmt: skip
        named = " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1 or name == "DP")
        return f"{named} mb{self.micro_batch} ZeRO-{self.shard} {self.recompute} {self.precision}"


class Sizes(Protocol):
    """Of a model, what a layout divides."""

    @property
    def heads(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def layers(self) -> int: ...


def fault(shape: Sizes, layout: Layout, sequence_length: int) -> str | None:
    """What makes the layout impossible, in words; None if nothing does."""
    x = layout
    for name in ("gpus", "tensor", "pipeline", "virtual", "context", "expert", "micro_batch", "global_batch"):
        if getattr(x, name) < 1:
            return f"{name} = {getattr(x, name)}: must be at least 1"
    if x.gpus % (x.tensor * x.pipeline * x.context):
        sizes = f"tensor {x.tensor} x pipeline {x.pipeline} x context {x.context}"
        return f"{x.gpus} GPUs are no multiple of {sizes} = {x.tensor * x.pipeline * x.context}"
    if shape.heads % x.tensor:
        return f"tensor = {x.tensor} does not divide the {shape.heads} heads"
    if shape.hidden % x.tensor:
        return f"tensor = {x.tensor} does not divide the hidden size {shape.hidden}"
    if x.expert > 1 and not shape.experts:
        return f"expert = {x.expert}, but the model has no experts"
    if shape.experts % x.expert:
        return f"expert = {x.expert} does not divide the {shape.experts} experts"
    if (x.gpus // x.pipeline) % (x.expert * x.expert_tensor):
        return f"expert = {x.expert * x.expert_tensor} does not divide the {x.gpus // x.pipeline} ranks of a stage"
    if sequence_length % (2 * x.context if x.context > 1 else 1):
        return f"context = {x.context}: sequences of {sequence_length} do not divide into its {2 * x.context} parts"
    if x.pipeline * x.virtual > shape.layers + 2:
        return f"pipeline {x.pipeline} x virtual {x.virtual} are more stages than the {shape.layers} layers"
    if x.virtual > 1 and x.pipeline == 1:
        return f"virtual = {x.virtual} needs a pipeline of more than one stage"
    if x.global_batch % (x.data * x.micro_batch):
        return (
            f"a batch of {x.global_batch} sequences is no multiple of data {x.data} x micro-batch {x.micro_batch} "
            f"= {x.data * x.micro_batch}"
        )
    return None


def divisors(number: int, most: int | None = None) -> list[int]:
    return [n for n in range(1, min(number, most or number) + 1) if number % n == 0]
