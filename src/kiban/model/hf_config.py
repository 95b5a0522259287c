"""config.json of `DeepseekV3ForCausalLM`, both ways. Every field is written: `save_pretrained` drops some that serving
engines need."""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json
from kiban.model.config import ModelConfig, Yarn
from kiban.model.fp8 import QUANTIZATION_CONFIG

# Fields whose only supported value is this one; a checkpoint with another is refused.
FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_interleave": True,
}

# What a field that is not there means: the defaults of transformers' DeepseekV3Config, which are not those of
# ModelConfig. The sizes that are not here must be there.
DEFAULTS: dict[str, Any] = {
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "num_nextn_predict_layers": 1,
}
# What null means where the class allows it.
NULLS = {"n_group": 1, "topk_group": 1, "n_shared_experts": 0, "num_nextn_predict_layers": 0}


def hf_config(config: ModelConfig, dtype: torch.dtype, bos_id: int, eos_id: int, pad_id: int) -> dict[str, Any]:
    """config.json with every field explicit. float8_e4m3fn means block-wise fp8 projections, the rest bfloat16."""
    fp8 = dtype == torch.float8_e4m3fn
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **config.model_dump(),
        **FIXED,
        "rope_scaling": config.rope_scaling
        and {"type": "yarn", "rope_type": "yarn", **config.rope_scaling.model_dump()},
        "head_dim": config.qk_rope_head_dim,  # transformers sizes its rotary table by it
        "qk_head_dim": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "num_key_value_heads": config.num_attention_heads,
        "attention_dropout": 0.0,
        "aux_loss_alpha": 0.0,
        "seq_aux": True,
        "pretraining_tp": 1,
        "ep_size": 1,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "torch_dtype": "bfloat16" if fp8 else str(dtype).removeprefix("torch."),
    } | ({"quantization_config": QUANTIZATION_CONFIG} if fp8 else {})


def read_config(folder: Path) -> ModelConfig:
    """Raises KibanError if it is no DeepSeek-V3, or has a field that is missing or whose value cannot be honoured."""
    path = folder / "config.json"
    content = _content(path)
    if content.get("model_type") != "deepseek_v3":
        raise KibanError(f"{path}: model_type is {content.get('model_type')!r}; only 'deepseek_v3' can be loaded")
    for field, value in FIXED.items():
        if content.get(field, value) != value:
            raise KibanError(f"{path}: {field}={content[field]!r} cannot be honoured; only {value!r} can")
    numbers = DEFAULTS | {name: content[name] for name in ModelConfig.model_fields if name in content}
    numbers |= {name: value for name, value in NULLS.items() if numbers[name] is None}
    rotary = content.get("rope_parameters")
    if "rope_theta" not in content and isinstance(rotary, dict) and "rope_theta" in rotary:
        numbers["rope_theta"] = rotary["rope_theta"]
    heads = numbers.get("num_attention_heads")
    if (content.get("num_key_value_heads") or heads) != heads:
        raise KibanError(
            f"{path}: num_key_value_heads={content['num_key_value_heads']!r} cannot be honoured; it must be "
            f"num_attention_heads={heads!r}"
        )
    try:
        return ModelConfig(**numbers | {"rope_scaling": _yarn(content, numbers["max_position_embeddings"], path)})
    except ValidationError as error:
        raise KibanError(f"{path}: {_first(error)}") from None


def read_fp8_block(folder: Path) -> tuple[int, int] | None:
    """Rows and columns of a block of block-wise fp8 weights; None if the weights are not quantised.

    Raises:
        KibanError: if they are quantised in another way.
    """
    path = folder / "config.json"
    given = _content(path).get("quantization_config")
    if given is None:
        return None
    block = given.get("weight_block_size") if isinstance(given, dict) else None
    if not isinstance(given, dict) or given.get("quant_method") != "fp8" or given.get("fmt", "e4m3") != "e4m3":
        found = given.get("quant_method") if isinstance(given, dict) else given
        raise KibanError(
            f"{path}: weights quantised by {found!r} cannot be loaded; only block-wise fp8 of format e4m3 can: take "
            "an unquantised checkpoint"
        )
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
        raise KibanError(
            f"{path}: quantization_config.weight_block_size={block!r} cannot be honoured; two sizes can, as [128, 128]"
        )
    return block[0], block[1]


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise KibanError(f"{path}: holds no JSON object; copy the file again")
    return content


def _yarn(content: dict[str, Any], context: Any, path: Path) -> Yarn | None:
    """`rope_scaling`, or as newer tools write it, `rope_parameters`."""
    given = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise KibanError(f"{path}: rope_scaling={given!r} cannot be honoured; it must be an object or null")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise KibanError(f"{path}: rope_scaling of type {kind!r} cannot be honoured; only 'yarn' can")
    for field, only in (("attention_factor", None), ("truncate", True)):  # transformers' own
        if given.get(field, only) != only:
            raise KibanError(f"{path}: rope_scaling.{field}={given[field]!r} cannot be honoured; leave it out")
    if ("mscale" in given) != ("mscale_all_dim" in given):  # DeepSeek's code and transformers read it differently
        raise KibanError(f"{path}: rope_scaling has one of mscale and mscale_all_dim; give both or none")
    # Without the two, both scale the rotary halves alone: that is magnitude 1 over 0, not Yarn's own default.
    numbers = {"original_max_position_embeddings": context, "mscale": 1.0, "mscale_all_dim": 0.0}
    try:
        return Yarn(**numbers | {name: given[name] for name in Yarn.model_fields if given.get(name) is not None})
    except ValidationError as error:
        raise KibanError(f"{path}: rope_scaling.{_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    return f"{place}: {what.lower()}" if place else what
