"""Published runs: rows in the form of `published_runs.json`, as shapes, layouts and measured figures."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.model.layout import Layout, fault
from kiban.planning.hardware import GPU
from kiban.planning.shape import Shape, mla
from kiban.planning.step_time import Constants, Situation
from kiban.planning.work import Work, work_of

# Words in a row's source or name -> its software, and whether that had FlashAttention. The first that fits counts.
SOFTWARE = (
    (r"maxtext", "maxtext", True),
    (r"llm-foundry|mosaicml", "composer", True),
    (r"torchtitan", "torchtitan", True),
    (r"bigscience|bloom|mt-nlg|sc21|glm-130b|opt paper", "megatron-2022", False),
)
OURS = "run"  # the `kind` of a row that Kiban wrote of a run of its own: predicted as the search predicts it
DROPPED = re.compile(r"token.?drop", re.IGNORECASE)
DEEPEP_SINCE = 25.09  # the release from which on dispatch sends a token once to a node
GRAPHED_SINCE = 26.05  # the release of Megatron-Bridge from which on experts no longer wait for the host


def overlaps_tensor(layout: Layout, gpu: GPU) -> bool:
    """Transformer Engine hides it within a server, where ranks can map each other's memory."""
    return layout.tensor <= gpu.node


class Unmodelled(Exception):
    """Why a row cannot be modelled."""


@dataclass(frozen=True)
class Run:
    id: Any
    source: str
    model: str
    row: Mapping[str, Any]
    shape: Shape
    layout: Layout
    gpu: GPU
    sequence_length: int
    situation: Situation
    flash: bool
    once_a_node: bool
    chosen: tuple[str, ...]  # what the row does not say and we chose

    def work(self) -> Work:
        return work_of(
            self.shape, self.layout, self.gpu, self.sequence_length, flash=self.flash, once_a_node=self.once_a_node
        )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file.

    Raises:
        KibanError: if it is no list of objects.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise KibanError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise KibanError(f"{file}: not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise KibanError(f"{file}: must be a list of objects, one a run, in the form of published_runs.json")
    return rows


def read_run(row: Mapping[str, Any], c: Constants | None = None) -> Run:
    """What a row leaves open of its layout is chosen as the search would, by the constants `c`.

    Raises:
        Unmodelled: if it cannot be modelled, or leaves something open and there is no `c`; says why.
    """
    try:
        return _run(row, c)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise Unmodelled(f"not in the form of published_runs.json: {type(error).__name__} {error}") from None


def _run(row: Mapping[str, Any], c: Constants | None) -> Run:
    model, hardware, layout = row["model"], row["hardware"], row["layout"]
    words = f"{row['source'].get('title')} {row.get('name')}".lower()
    software, flash = next(
        ((name, flash) for pattern, name, flash in SOFTWARE if re.search(pattern, words)), ("megatron", True)
    )
    gpu, shape, chosen = _gpu(hardware), _shape(model), list[str]()
    length = _whole(model, "seq_len")
    batch = _whole(layout, "global_batch")
    precision = _precision(layout)
    if gpu.peak(precision) is None:
        raise Unmodelled(f"{gpu.name} has no known peak in {precision}")
    count = hardware.get("count")
    if not count:
        # About 16,384 tokens a step for each GPU, as most production runs have.
        count = 2 ** max(3, round(batch * length / 16384).bit_length() - 1)
        chosen.append("gpus")
    given = {name: layout.get(key) for name, key in _SIZES.items()}
    fsdp = str(layout.get("fsdp") or "")
    ranks = re.search(r"<=\s*(\d+)", fsdp)
    shard = layout.get("zero_stage")
    said, share = layout.get("recompute_key"), _share(layout, shape)
    listed = re.match(r"selective: ([\w, ]+)", str(layout.get("recompute")))
    if listed and "attn" not in listed[1]:
        said = "none"  # norms, activations and up-projections: cheap
    if said == "selective" and software == "torchtitan":
        said, share = "full", 0.5  # its policy recomputes every second product (torchtitan, activation_checkpoint.py)
    x = Layout(
        gpus=int(count),
        global_batch=batch,
        expert_tensor=int(layout.get("etp") or (given["tensor"] if 0 < shape.experts <= 8 else 0) or 1),
        recompute_share=share,
        shard=1 if shard is None else int(shard),
        shard_ranks=int(ranks[1]) if ranks else None,
        recompute={"partial": "full" if share < 1 else "selective", None: "none"}.get(said, said),
        precision=precision,
        schedule="1f1b",
        sequence_parallel=bool(layout.get("sequence_parallel") if not flash else True),
        **{name: int(size or 1) for name, size in given.items()},
    )
    dropped = bool(DROPPED.search(str(layout.get("moe_balance"))))
    situation = Situation(
        gpu=gpu,
        precision=precision,
        software=software,
        moe_host="drop"
        if dropped
        else "graphed"
        if _release(row) >= GRAPHED_SINCE and gpu.architecture == "blackwell"
        else "eager",
        forced_balance=layout.get("moe_balance") is not None and "forced" in layout["moe_balance"] or dropped,
        plain_experts=shape.experts == x.expert,
        near_gather=min(x.shard_ranks or x.data, x.data) * x.tensor * x.context <= gpu.domain,
        tensor_overlap=overlaps_tensor(x, gpu) if software == "megatron" else "asynctp" in words,
        head=shape.v // shape.heads,
    )
    if given["tensor"] is None or given["micro_batch"] is None:
        free = {name for name, size in given.items() if size is None}
        if c is None:
            raise Unmodelled(f"{', '.join(sorted(free))} not given")
        x = _choose(shape, x, gpu, length, free, c)
        chosen += sorted(free)
    wrong = fault(shape, x, length)
    if wrong:
        raise Unmodelled(wrong)
    if said is None:
        # Benchmarks that recompute whole layers say so; norms and activations, which cost little, they often do not.
        x = replace(x, recompute="none")
        chosen.append("recompute")
    ours = row.get("kind") == OURS
    if ours:
        from kiban.planning.search import situation as planned

        situation = planned(shape, x, gpu)
    return Run(
        id=row.get("id"),
        source=str(row["source"].get("title")),
        model=_model_name(shape, model),
        row=row,
        shape=shape,
        layout=x,
        gpu=gpu,
        sequence_length=length,
        situation=situation,
        flash=flash,
        once_a_node=ours or _release(row) >= DEEPEP_SINCE,
        chosen=tuple(chosen),
    )


_SIZES = {
    "tensor": "tp",
    "pipeline": "pp",
    "virtual": "vpp",
    "context": "cp",
    "expert": "ep",
    "micro_batch": "micro_batch",
}


def _whole(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if not value:
        raise Unmodelled(f"{key} is not given")
    return int(value)


def _precision(layout: Mapping[str, Any]) -> str:
    """Of the layers' products: what the prose says where it says more than the key."""
    key, prose = layout.get("precision_key"), str(layout.get("precision")).lower()
    if key not in ("fp16", "bf16", "fp8", "mxfp8", "nvfp4"):
        raise Unmodelled(f"precision {key} is not known")
    if key in ("bf16", "fp16") and re.search(r"float8|fp8", prose):
        return "fp8"
    return str(key)


def _share(layout: Mapping[str, Any], shape: Shape) -> float:
    """Of the layers that are recomputed in full: `5 layers full`."""
    found = re.match(r"(\d+) layers full", str(layout.get("recompute")))
    return int(found[1]) / shape.layers if found else 1.0


def _release(row: Mapping[str, Any]) -> float:
    """Year and month of the software, `26.04` -> 26.04; 25.05 if it is not said."""
    found = re.search(r"[\[v ](2[3-9]\.[01]\d)", str(row.get("name")))
    return float(found[1]) if found else 25.05


def _gpu(hardware: Mapping[str, Any]) -> GPU:
    name = str(hardware["gpu"])
    known = next((word for pattern, word in _ARCHITECTURES if re.search(pattern, name)), None)
    if known is None:
        raise Unmodelled(f"{name}: of no architecture that there are constants for")
    if not hardware.get("peak_dense_bf16_tflops"):
        raise Unmodelled(f"{name}: no peak is given")
    stated = re.search(r"(\d+) ?W\b", name)
    watts = float(stated[1]) if stated else next(w for pattern, w in _WATTS if re.search(pattern, name))
    fp8 = hardware.get("peak_dense_fp8_tflops")
    return GPU(
        name=name,
        bf16=hardware["peak_dense_bf16_tflops"],
        fp8=fp8,
        # FP4 is not in the rows: twice FP8 on Blackwell, three times on Blackwell Ultra (makers' datasheets).
        fp4=(fp8 * (3 if "300" in name else 2)) if fp8 and known == "blackwell" else None,
        memory=hardware["hbm_gb"],
        memory_bandwidth=hardware["hbm_bw_gbps"],
        nvlink=hardware["intra_node_gbs_per_gpu_unidir"],
        network=hardware["inter_node_gbs_per_gpu_unidir"],
        node=hardware["gpus_per_node"],
        domain=hardware["nvlink_domain"],
        watts=watts,
        system_watts=watts,
        architecture=known,
        source="the row",
    )


# Rows do not give the power; makers' datasheets do (as hardware.toml).
_WATTS = (
    (r"GB300", 1400.0),
    (r"GB200", 1200.0),
    (r"B300", 1100.0),
    (r"B200", 1000.0),
    (r"A100|A800", 400.0),
    (r"", 700.0),
)
_ARCHITECTURES = ((r"A100|A800", "ampere"), (r"H100|H200|H800|GH200", "hopper"), (r"B200|B300", "blackwell"))


def _shape(model: Mapping[str, Any]) -> Shape:
    d, layers, heads = _whole(model, "hidden"), _whole(model, "layers"), _whole(model, "heads")
    experts, chosen = model.get("experts") or 0, model.get("active_experts") or 0
    moe_layers = (model.get("moe_layers") or 0) if experts else 0
    kv_heads = model.get("kv_heads") or heads
    if model.get("mla"):
        m = model["mla"]
        nope, rope, v_head, rank = m["qk_nope_head_dim"], m["qk_rope_head_dim"], m["v_head_dim"], m["kv_lora_rank"]
        attention, saved = mla(d, heads, m.get("q_lora_rank"), rank, nope, rope, v_head)
        qk, v, sent = heads * (nope + rope), heads * v_head, rank + rope
    else:
        head = model.get("head_dim") or d // heads
        attention = 2 * d * heads * head + 2 * d * kv_heads * head
        qk = v = heads * head
        sent, saved = kv_heads * head, 2 * heads * head + 2 * kv_heads * head
    matrices = 3 if model.get("ffn_gated") else 2
    ffn = model.get("ffn") or 0
    if moe_layers < layers and not ffn:
        raise Unmodelled("the width of the MLP is not given")
    expert = model.get("expert_ffn") or (ffn if experts else 0)
    shared = (model.get("shared_expert_ffn") or 0) if model.get("shared_experts") else 0
    # DeepSeek-V3's router chooses from 4 of 8 groups, V2's from 3 (their reports, sections 2.1.2); rows do not say it.
    deepseek = bool(model.get("mla")) and experts in (160, 256)
    groups, chosen_groups = (8, 4 if experts == 256 else 3) if deepseek else (1, 1)
    windowed = re.search(r"full attention FLOPs only for (\d+) layers", str(model.get("notes")))
    return Shape(
        hidden=d,
        layers=layers,
        moe_layers=moe_layers,
        vocab=_whole(model, "vocab"),
        tied=bool(model.get("tied_embeddings")),
        heads=heads,
        kv_heads=kv_heads,
        attention=attention,
        qk=qk,
        v=v,
        kv_sent=sent,
        saved_attention=saved,
        full_attention_layers=int(windowed[1]) if windowed else layers,
        dense_ffn=matrices * d * ffn if moe_layers < layers else 0,
        dense_width=matrices * ffn,
        experts=experts,
        chosen=chosen,
        expert=matrices * d * expert,
        expert_width=matrices * expert,
        shared=matrices * d * shared,
        shared_width=matrices * shared,
        mtp_layers=model.get("mtp_layers") or 0,
        groups=groups,
        chosen_groups=chosen_groups,
    )


def _model_name(shape: Shape, model: Mapping[str, Any]) -> str:
    """Rows of one model have one name whatever their sequence length or number of heads."""
    return f"{model.get('type')} L{shape.layers} h{shape.hidden} E{shape.experts}x{model.get('expert_ffn')}"


def _choose(shape: Shape, x: Layout, gpu: GPU, length: int, free: set[str], c: Constants) -> Layout:
    """What the row does not say, as the search would choose it."""
    from kiban.planning.search import fill

    found = fill(shape, x, gpu, length, free, c)
    if found is None:
        raise Unmodelled(f"no layout of {x.gpus} x {gpu.name} holds the model")
    return found
