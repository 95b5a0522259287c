"""How long a step takes: the work over rates, and what of the communication nothing hides.

The rates are the efficiency constants of `constants.toml`, fitted on published runs by `fit.py`; the same expressions
serve one layout, or arrays of many.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from kiban.planning.hardware import GPU
from kiban.planning.work import Work

Constants = Mapping[str, float]

# Precision of the layers -> which efficiency applies.
KIND = {"fp16": "bf16", "bf16": "bf16", "fp8": "fp8", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}


# Of bf16's peak: the GPU that the architecture's efficiencies refer to (A100, H100, GB200).
WATTS_PER_TFLOPS = {"ampere": 400 / 312, "hopper": 700 / 989.4, "blackwell": 1200 / 2450}


@cache
def constants() -> Constants:
    """Those that ship, fitted on all published runs."""
    text = resources.files("kiban.planning").joinpath("constants.toml").read_text(encoding="utf-8")
    return {name: float(value) for name, value in tomllib.loads(text)["constants"].items()}


@dataclass(frozen=True)
class Situation:
    """Which constants apply to a run."""

    gpu: GPU
    precision: str
    software: str = "megatron"  # a key of SOFTWARE in published.py
    moe_host: str = "graphed"  # eager, graphed, or drop: who waits for the number of tokens of each expert
    forced_balance: bool = False
    plain_experts: bool = False  # a rank has one expert: its products are like any other
    near_gather: bool = False  # weights are gathered over NVLink alone
    tensor_overlap: bool = True  # tensor parallelism's communication is cut up and hidden behind the products
    head: int = 128  # dims; tensor cores want multiples of 8


@dataclass(frozen=True)
class Rates:
    """FLOP/s, bytes/s, seconds and shares, one for each run."""

    linear: Any
    expert: Any
    head: Any
    attention: Any
    memory: Any
    element: Any  # passes over memory that element-wise work takes, beside those counted
    routed: Any  # the same, of experts
    host_dense: Any
    host_moe: Any
    host_expert: Any
    imbalance: Any
    tensor: Any
    gather: Any
    software: Any


def rates(situations: Sequence[Situation], c: Constants) -> Rates:
    """For each situation."""
    columns: dict[str, list[float]] = {field.name: [] for field in dataclasses.fields(Rates)}
    for s in situations:
        architecture = s.gpu.architecture
        peak, bf16 = s.gpu.peak(s.precision), s.gpu.bf16 * 1e12
        assert peak is not None
        kind = KIND[s.precision]
        # Large products run at the clock that the power allows.
        power = (s.gpu.watts / s.gpu.bf16 / WATTS_PER_TFLOPS[architecture]) ** c["power"]
        linear = peak * c[f"gemm.{architecture}.{kind}"] * power
        low = kind != "bf16"
        columns["linear"].append(linear)
        columns["expert"].append(linear * (1.0 if s.plain_experts else c["grouped"]))
        columns["head"].append(bf16 * c[f"gemm.{architecture}.bf16"] * power)
        narrow = min(1.0, s.head / 128) ** c["narrow.head"]
        aligned = 1.0 if s.head % 8 == 0 else 1 / c["misaligned"]
        columns["attention"].append(bf16 * c[f"attention.{architecture}"] * narrow * aligned)
        columns["memory"].append(s.gpu.memory_bandwidth * 1e9 * c["memory"])
        columns["element"].append(c["element"] + (c["cast"] if low else 0.0))
        columns["routed"].append(c["routed"] + (c["cast"] if low else 0.0))
        columns["host_dense"].append(c["host.dense"])
        columns["host_moe"].append(c[f"host.moe.{s.moe_host}"])
        columns["host_expert"].append(c["host.expert"] if s.moe_host == "eager" else 0.0)
        columns["imbalance"].append(1.0 if s.forced_balance else c["imbalance"])
        columns["tensor"].append(c["exposed.tensor"] if s.tensor_overlap else c["exposed.tensor-plain"])
        columns["gather"].append(c["exposed.tensor" if s.near_gather else "exposed.gather"])
        columns["software"].append(c.get(f"software.{s.software}", 1.0))
    return Rates(**{name: np.array(values) for name, values in columns.items()})


def stacked(works: Sequence[Work]) -> Work:
    """One `Work` whose fields are arrays."""
    columns: dict[str, Any] = {f.name: np.array([getattr(w, f.name) for w in works]) for f in dataclasses.fields(Work)}
    return Work(**columns)


def parts(w: Work, r: Rates, c: Constants) -> dict[str, Any]:
    """Seconds of a step, by kind; they add up to the step."""
    # Narrow products fill the tensor cores less.
    linear = w.linear_flops / r.linear * (1 + c["narrow.product"] / w.linear_width)
    experts = w.expert_flops / r.expert * r.imbalance * (1 + c["narrow.product"] / w.expert_width)
    head = w.head_flops / r.head
    attention = w.attention_flops / r.attention
    memory = (w.weight_bytes + w.element_bytes * r.element + w.routed_bytes * r.routed + w.score_bytes) / r.memory
    host = w.dense_layers * r.host_dense + w.moe_layers * r.host_moe + w.local_experts * r.host_expert
    compute = (linear + experts + head + attention + memory) * r.software
    micro = compute + host
    tensor, context = r.tensor * w.tensor_wire, c["exposed.context"] * w.context_wire
    expert = c["exposed.expert"] * w.expert_wire + c["exposed.expert-far"] * w.expert_far_wire
    pipeline = c["exposed.pipeline"] * w.pipeline_wire
    jitter = 1 + c["spread"] * w.spread
    hidden = micro * c["overlap"]
    gather = r.gather * w.gather_wire * jitter + np.maximum(0.0, w.gather_wire * jitter - hidden)
    one = micro + tensor + context + expert + pipeline + gather
    return {
        "compute": w.micro_batches * compute,
        "launch": w.micro_batches * host,
        "tensor": w.micro_batches * tensor,
        "context": w.micro_batches * context,
        "expert": w.micro_batches * expert,
        "pipeline": w.micro_batches * pipeline,
        "data": w.micro_batches * gather + c["exposed.data"] * w.data_wire,
        "bubble": w.bubble * one,
        "optimiser": w.optimiser_bytes / r.memory,
    }


def step_seconds(w: Work, r: Rates, c: Constants) -> Any:
    return sum(parts(w, r, c).values())
