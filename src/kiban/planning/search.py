"""Finds the layouts that train a model fastest on given GPUs: all that are possible and fit, costed in closed form."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kiban.model.communication import WEIGHT_BYTES
from kiban.model.layout import RECOMPUTE, Layout, divisors
from kiban.planning.hardware import GPU
from kiban.planning.memory import USABLE, memory
from kiban.planning.shape import Shape
from kiban.planning.step_time import Constants, Situation, constants, parts, rates, stacked
from kiban.planning.work import work_of

MOST_TENSOR = 8
MOST_PIPELINE = 64
MOST_EXPERT = 256
MICRO_BATCHES = (1, 2, 4, 8)
SHORTEST_PART = 2048  # tokens of a sequence that a rank of context parallelism has at least

# Tokens a step: DeepSeek-V3's (15,360 sequences of 4,096 at hidden size 7168; arXiv 2412.19437, section 4.2), and for
# narrower models fewer, with the square of the width.
BATCH_TOKENS = 15_360 * 4096
BATCH_HIDDEN = 7168


@dataclass(frozen=True)
class Candidate:
    layout: Layout
    memory: dict[str, float]  # bytes on the fullest stage
    parts: dict[str, float]  # seconds of a step, by kind

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Found:
    candidates: list[Candidate]  # fastest first
    considered: int
    too_large: int  # did not fit
    smallest: tuple[Layout, dict[str, float]] | None  # the one that came nearest to fitting, if none did


def default_batch(shape: Shape, gpus: int, sequence_length: int) -> int:
    """Sequences a step: a number that many layouts and micro-batches divide."""
    tokens = min(BATCH_TOKENS, BATCH_TOKENS * (shape.hidden / BATCH_HIDDEN) ** 2)
    wanted = max(1.0, tokens / sequence_length)
    unit = math.gcd(MICRO_BATCHES[-1] * gpus, 2 ** max(0, int(math.log2(wanted)) - 1))
    return max(1, round(wanted / unit)) * unit


def layouts(
    shape: Shape,
    gpu: GPU,
    gpus: int,
    global_batch: int,
    sequence_length: int,
    precisions: Sequence[str],
    sites: int = 1,
) -> Iterator[Layout]:
    """All that are possible, whether they fit or not. Recomputation is left at none. With several sites, whole
    replicas lie within each."""
    pipelines = divisors(gpus, min(MOST_PIPELINE, shape.layers))
    contexts = [c for c in (1, 2, 4, 8, 16, 32) if sequence_length // c >= SHORTEST_PART or c == 1]
    for tensor in (t for t in (1, 2, 4, 8) if t <= min(MOST_TENSOR, gpu.domain) and shape.heads % t == 0):
        for pipeline in pipelines:
            for context in contexts:
                block = tensor * pipeline * context
                if gpus % block or (gpus // block) % sites:
                    continue
                data = gpus // block
                if global_batch % data:
                    continue
                for expert in _experts(shape, gpus // pipeline):
                    for micro in MICRO_BATCHES:
                        if (global_batch // data) % micro:
                            continue
                        count = global_batch // data // micro
                        if pipeline > 1 and count < pipeline:
                            continue  # a bubble as long as the work
                        for virtual in _virtuals(shape, pipeline, count):
                            for shard in (1, 3) if pipeline == 1 else (1,):
                                for precision in precisions:
                                    yield Layout(
                                        gpus=gpus,
                                        tensor=tensor,
                                        pipeline=pipeline,
                                        virtual=virtual,
                                        context=context,
                                        expert=expert,
                                        micro_batch=micro,
                                        global_batch=global_batch,
                                        shard=shard,
                                        precision=precision,
                                    )


def _experts(shape: Shape, ranks: int) -> list[int]:
    if not shape.experts:
        return [1]
    return [e for e in divisors(shape.experts, MOST_EXPERT) if ranks % e == 0]


def _virtuals(shape: Shape, pipeline: int, micro_batches: int) -> list[int]:
    """Chunks a rank. Interleaving wants micro-batches in multiples of the pipeline (arXiv 2104.04473, section 2.2)."""
    if pipeline == 1:
        return [1]
    most = (shape.layers + shape.mtp_layers + 2) // pipeline
    several = [v for v in (2, 4, 8) if v <= most] if micro_batches % pipeline == 0 else []
    return [1, *several]


def search(
    shape: Shape,
    gpu: GPU,
    candidates: Iterable[Layout],
    sequence_length: int,
    sites: int = 1,
    site_link: float = math.inf,
    c: Constants | None = None,
) -> Found:
    """Those that fit, fastest first. `site_link`: bytes/s between a site and the others."""
    c = c or constants()
    fitting: list[tuple[Layout, dict[str, float]]] = []
    considered, too_large = 0, 0
    smallest: tuple[Layout, dict[str, float]] | None = None
    room = gpu.memory * 1e9 * USABLE
    for layout in candidates:
        considered += 1
        for policy in RECOMPUTE:
            tried = replace(layout, recompute=policy)
            kinds = memory(shape, tried, sequence_length)
            if kinds["total"] <= room:
                fitting.append((tried, kinds))
                break
        else:
            too_large += 1
            if smallest is None or kinds["total"] < smallest[1]["total"]:
                smallest = tried, kinds
    if not fitting:
        return Found([], considered, too_large, smallest)
    works = [work_of(shape, layout, gpu, sequence_length) for layout, _ in fitting]
    situations = [situation(shape, layout, gpu) for layout, _ in fitting]
    seconds = parts(stacked(works), rates(situations, c), c)
    between = site_seconds(shape, sites, site_link)
    total = sum(seconds.values())
    found = []
    for i in np.argsort(total, kind="stable"):
        layout, kinds = fitting[i]
        each = {name: float(values[i]) for name, values in seconds.items()}
        if sites > 1:
            each["sites"] = between
        found.append(Candidate(layout, kinds, each))
    return Found(found, considered, too_large, smallest)


def situation(shape: Shape, layout: Layout, gpu: GPU) -> Situation:
    """Of a run of our own: experts do not wait for the host, tensor parallelism overlaps within a server."""
    return Situation(
        gpu=gpu,
        precision=layout.precision,
        plain_experts=shape.experts == layout.expert,
        near_gather=layout.data * layout.tensor * layout.context <= gpu.domain,
        tensor_overlap=layout.tensor <= gpu.node,
        head=shape.v // shape.heads,
    )


def site_seconds(shape: Shape, sites: int, link: float) -> float:
    """To add up the gradients of all weights, in bf16, over each site's link: a ring of sites (each byte out and in
    once for the sum and once for the result). Nothing hides it: it can begin only when a site's own sum is there."""
    if sites == 1:
        return 0.0
    return 2 * (sites - 1) / sites * WEIGHT_BYTES * shape.total / link


def precisions_of(gpu: GPU) -> list[str]:
    """That training of frontier models is known to work in, and that the GPU has: bf16 and 8 bits."""
    if not gpu.fp8:
        return ["bf16"]
    return ["bf16", "mxfp8" if gpu.architecture == "blackwell" else "fp8"]


def fill(shape: Shape, given: Layout, gpu: GPU, sequence_length: int, free: set[str], c: Constants) -> Layout | None:
    """The fastest layout that fits and has what `given` has, but for the sizes named in `free`."""
    fixed = {"tensor", "pipeline", "virtual", "context", "expert", "micro_batch"} - free
    batch = given.global_batch
    if "micro_batch" in free:  # a batch that was rounded when it was published must still divide
        unit = math.gcd(given.gpus, 2 ** max(0, int(math.log2(batch)) - 1))
        batch = max(1, round(batch / unit)) * unit
    every = layouts(shape, gpu, given.gpus, batch, sequence_length, [given.precision])
    kept = (x for x in every if all(getattr(x, name) == getattr(given, name) for name in fixed))
    found = search(shape, gpu, kept, sequence_length, c=c).candidates
    return found[0].layout if found else None


def too_large_message(shape: Shape, gpu: GPU, gpus: int, found: Found, sequence_length: int) -> str:
    """By how much, and what would make it fit."""
    if found.smallest is None:
        return f"no layout divides {gpus} GPUs, the batch and the model at once; give another --gpus or --batch"
    layout, kinds = found.smallest
    need, room = kinds["total"] / 1e9, gpu.memory * USABLE
    fixed = kinds["weights"] + kinds["gradients"] + kinds["optimiser"]
    enough = 2 ** math.ceil(math.log2(gpus * need / room))
    remedies = [f"about {enough} GPUs" if fixed > 0.5 * kinds["total"] else "a smaller --sequence-length"]
    remedies.append(f"GPUs of {math.ceil(need / USABLE)} GB")
    return (
        f"{shape.total / 1e9:.0f}B parameters do not fit on {gpus} x {gpu.name}: the leanest layout ({layout}) needs "
        f"{need:.0f} GB of {room:.0f} GB, {need - room:.0f} GB too much; {' or '.join(remedies)} would hold it"
    )
