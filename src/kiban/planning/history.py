"""The programme's own runs as rows in the form of `published_runs.json`, which `kiban plan check` takes."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kiban import __version__
from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.model.config import ModelConfig
from kiban.model.layout import Layout
from kiban.planning.check import GIB, fingerprint
from kiban.planning.hardware import GPU
from kiban.planning.published import OURS, read_rows
from kiban.planning.shape import shape_of


def run_row(
    name: str,
    config: ModelConfig,
    sequence_length: int,
    layout: Layout,
    device: str,
    card: GPU | None,
    tokens: int,
    tokens_per_s: float,
    seconds: float,
    mfu: float,
    memory_bytes: int,
    loss: float | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A finished run. `loss` in nats/token; `data` says what it read and how, so that `kiban forecast` sees which runs
    are alike. `tokens_per_s` of all ranks together, and `mfu` (a share, of the matrix products' rate measured
    when the run began), are medians over its steps; `seconds` is all its time. `card` is None for a device that has no
    entry in hardware.toml, such as a CPU: nothing is claimed of it then but its name."""
    shape = shape_of(config)
    each = tokens_per_s / layout.gpus
    tflops = shape.flops_per_token(sequence_length) * each / 1e12
    rate = replace(shape, mtp_layers=0).flops_per_token(sequence_length) * each / 1e12 / mfu  # `mfu` counts no MTP
    row: dict[str, Any] = {
        "name": name,
        "kind": OURS,
        "source": {"title": "kiban train", "repo": None, "path": name, "ref": __version__, "url": None},
        "model": {
            "type": "moe" if shape.moe_layers else "dense",
            "layers": shape.layers,
            "hidden": shape.hidden,
            "ffn": config.intermediate_size,
            "ffn_gated": True,
            "heads": shape.heads,
            "kv_heads": None,
            "head_dim": None,
            "vocab": shape.vocab,
            "tied_embeddings": shape.tied,
            "experts": shape.experts,
            "active_experts": shape.chosen,
            "shared_experts": config.n_shared_experts,
            "expert_ffn": config.moe_intermediate_size,
            "shared_expert_ffn": config.moe_intermediate_size * config.n_shared_experts,
            "moe_layers": shape.moe_layers,
            "dense_ffn_layers": shape.dense_layers,
            "mla": {
                key: getattr(config, key)
                for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
            },
            "mtp_layers": shape.mtp_layers,
            "seq_len": sequence_length,
            "total_params": shape.total,
            "active_params": shape.active,
        },
        "hardware": {
            "gpu": device,
            "peak_dense_bf16_tflops": card.bf16 if card else None,
            "peak_dense_fp8_tflops": card.fp8 if card else None,
            "hbm_gb": card.memory if card else None,
            "hbm_bw_gbps": card.memory_bandwidth if card else None,
            "gpus_per_node": card.node if card else None,
            "intra_node_gbs_per_gpu_unidir": card.nvlink if card else None,
            "inter_node_gbs_per_gpu_unidir": card.network if card else None,
            "nvlink_domain": card.domain if card else None,
            "count": layout.gpus,
        },
        "layout": {
            "tp": layout.tensor,
            "pp": layout.pipeline,
            "vpp": layout.virtual,
            "ep": layout.expert,
            "etp": layout.expert_tensor,
            "cp": layout.context,
            "dp": layout.data,
            "zero_stage": layout.shard if layout.data > 1 else 0,
            "micro_batch": layout.micro_batch,
            "global_batch": layout.global_batch,
            "grad_accum": layout.micro_batches,
            "recompute": layout.recompute,
            "recompute_key": layout.recompute,
            "precision": layout.precision,
            "precision_key": layout.precision,
        },
        "measured": {
            "step_time_s": layout.global_batch * sequence_length / tokens_per_s,
            "tokens_per_s_per_gpu": each,
            "tflops_per_gpu_model": tflops,
            "mfu_pct": 100 * mfu,
            "mfu_peak_tflops": rate,
            "flop_convention": "6 x active parameters (head included, input embedding not) + causal attention, MTP too",
            "gpu_hours": layout.gpus * seconds / 3600,
            "tokens": tokens,
            "wall_days": seconds / 86400,
            "peak_mem_gb": memory_bytes / GIB,
            "loss": loss if loss is not None and math.isfinite(loss) else None,
        },
        "data": dict(data or {}),
    }
    return {"id": fingerprint(row)} | row


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to the list in `file`; not twice, when a finished run is started again.

    Raises:
        KibanError: if the file cannot be written, or holds something else.
    """
    rows = read_rows(file) if file.exists() else []
    if any(known.get("id") == row["id"] for known in rows):
        return
    try:
        write_atomic(file, json.dumps([*rows, row], ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise KibanError(f"{file}: cannot be written ({error.strerror})") from None
