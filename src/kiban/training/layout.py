"""How training is laid out over ranks: read from a file, and checked before anything is allocated."""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from kiban.artifacts.errors import KibanError
from kiban.model.config import ModelConfig
from kiban.model.layout import Layout, fault
from kiban.training.pipeline_schedule import ScheduleName


@dataclass(frozen=True)
class _Sizes:
    heads: int
    hidden: int
    experts: int
    layers: int


def read_layout(file: Path, ranks: int) -> Layout:
    """The table `[layout]` of a file (also of a plan that `kiban plan search --write` wrote), or all of it if there is
    none. `gpus` is the number of ranks, and may be left out: then data parallelism takes what is there.

    Raises:
        KibanError: if it cannot be read, or names what there is not, or another number of ranks.
    """
    try:
        read: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise KibanError(f"{file}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{file}: not TOML ({error})") from None
    table = read.get("layout", read)
    names = {field.name for field in fields(Layout)}
    unknown = sorted(set(table) - names) if isinstance(table, dict) else ["layout as a table"]
    if unknown:
        raise KibanError(f"{file}: there is no {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    try:
        # By way of JSON: from a dict, pydantic's strict mode takes no dataclass.
        layout = TypeAdapter(Layout).validate_json(json.dumps({"gpus": ranks} | table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise KibanError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if layout.gpus != ranks:
        raise KibanError(
            f"{file}: gpus = {layout.gpus}, but {ranks} ranks were started; start as many, or leave gpus out so that "
            "data parallelism takes what is there"
        )
    return layout


def layout_of_ranks(file: Path | None) -> Layout:
    """That of a file for the ranks that there are; without one, they share weights and rows (FSDP)."""
    import torch.distributed as dist

    ranks = dist.get_world_size()
    return read_layout(file, ranks) if file else Layout(ranks, shard=3)


def check_layout(config: ModelConfig, layout: Layout, length: int, batch: int) -> None:
    """`length` of a sequence in tokens, `batch` in sequences.

    Raises:
        KibanError: if model, batch and ranks do not divide as the layout says, naming the size that does not.
    """
    wrong = _fault(config, layout, length, batch)
    if wrong:
        raise KibanError(f"this layout is impossible: {wrong}")


def _fault(config: ModelConfig, x: Layout, length: int, batch: int) -> str | None:
    experts = config.n_routed_experts if config.first_k_dense_replace < config.num_hidden_layers else 0
    sizes = _Sizes(config.num_attention_heads, config.hidden_size, experts, config.num_hidden_layers)
    first = fault(sizes, x, length)
    if first and not first.startswith("a batch of"):  # the batch is that of the settings
        return first
    if x.schedule not in get_args(ScheduleName):
        return f'schedule = "{x.schedule}": there are {", ".join(get_args(ScheduleName))}'
    if x.expert_tensor > 1:
        return f"expert_tensor = {x.expert_tensor}: experts are not split; raise expert instead"
    if x.recompute != "none":
        return f'recompute = "{x.recompute}": training keeps all activations; lower micro_batch instead'
    if x.tensor > 1 and not x.sequence_parallel:
        return "sequence_parallel = false: with tensor > 1 sequences are always shared out; leave it out"
    if not 0 <= x.shard <= 3:
        return f"shard = {x.shard}: must be 0 (nothing), 1, 2 (optimiser and gradients), or 3 (weights too)"
    if x.data % shard_ranks(x):
        return f"shard_ranks = {x.shard_ranks} does not divide the {x.data} data-parallel ranks"
    if batch % x.data:
        return (
            f"a batch of {batch} sequences is no multiple of the {x.data} data-parallel ranks; "
            "change batch_sequences in [training]"
        )
    dense, shared = config.intermediate_size, config.moe_intermediate_size * config.n_shared_experts
    local = length // x.context
    for name, size in (
        ("vocabulary of", config.vocab_size),
        ("width of a dense layer,", dense),
        ("width of the shared expert,", shared),
        ("tokens of a sequence on a rank,", local),
    ):
        if size % x.tensor:
            return f"tensor = {x.tensor} does not divide the {name} {size}"
    ranks = shard_ranks(x) * x.context
    if ranks * x.tensor % x.expert:
        return f"expert = {x.expert} does not divide the {ranks * x.tensor} ranks that hold the model once"
    if x.tensor > 1:  # their other side is what FSDP cuts
        query = config.q_lora_rank or config.hidden_size
        for name, size in (
            ("hidden size", config.hidden_size),
            ("rank of the queries' latent", query),
            ("rank of the latent", config.kv_lora_rank),
        ):
            if size % ranks:
                return f"{ranks} ranks share the weights, which does not divide the {name} {size}; lower shard_ranks"
    owners = ranks * x.tensor // x.expert
    if x.expert > 1:
        for name, size in (("width of an expert", config.moe_intermediate_size), ("hidden size", config.hidden_size)):
            if size % owners:
                return f"{owners} ranks share each expert, which does not divide the {name} {size}; raise expert"
    return None


def shard_ranks(layout: Layout) -> int:
    """Data-parallel ranks that share one copy of the model; the others are replicas."""
    if layout.shard == 0:
        return 1
    return min(layout.shard_ranks or layout.data, layout.data)
