"""The Hugging Face layout of `DeepseekV3ForCausalLM`, both ways.

Written by hand, field by field: `save_pretrained` drops fields that serving engines need, and casts the routing bias.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.model.config import ModelConfig, Yarn
from kiban.model.transformer import Transformer

SHARD_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"

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


def hf_config(config: ModelConfig, dtype: torch.dtype, bos_id: int, eos_id: int, pad_id: int) -> dict[str, Any]:
    """config.json with every field explicit."""
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
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def save(
    model: Transformer,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    bos_id: int = 0,
    eos_id: int = 1,
    pad_id: int = 2,
) -> int:
    """Writes config.json, the weights in shards, and the index; gives the number of tensors.

    The MTP layer stands in a shard of its own, with copies of embedding and head, since some loaders want both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in _named(model):
        value = tensor.detach() if name.endswith("e_score_correction_bias") else tensor.detach().to(dtype)
        if size + value.nbytes > SHARD_BYTES:
            shards, size = [*shards, {}], 0
        shards[-1][name] = value.contiguous().clone()
        size += value.nbytes
    mtp = {name: tensor.detach().to(_stored(name, dtype)).contiguous().clone() for name, tensor in _named_mtp(model)}
    if mtp:
        shards.append(mtp)
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / "config.json", hf_config(model.config, dtype, bos_id, eos_id, pad_id))
    return len(weight_map)


def _stored(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if name.endswith("e_score_correction_bias") else dtype


def _named(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Tensors under their Hugging Face names. Ours are the same but for the stacked experts and the prefix."""
    yield "model.embed_tokens.weight", model.embed_tokens.weight
    for layer, block in enumerate(model.layers):
        yield from _block(f"model.layers.{layer}.", block)
    yield "model.norm.weight", model.norm.weight
    yield "lm_head.weight", model.lm_head.weight


def _block(prefix: str, block: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in block.state_dict(keep_vars=True).items():
        if name == "mlp.experts.gate_up_proj":
            for expert, weight in enumerate(tensor):
                gate, up = weight.chunk(2)
                yield f"{prefix}mlp.experts.{expert}.gate_proj.weight", gate
                yield f"{prefix}mlp.experts.{expert}.up_proj.weight", up
        elif name == "mlp.experts.down_proj":
            for expert, weight in enumerate(tensor):
                yield f"{prefix}mlp.experts.{expert}.down_proj.weight", weight
        else:
            yield prefix + name, tensor


def _named_mtp(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    if model.mtp is None:
        return
    prefix = f"model.layers.{model.config.num_hidden_layers}."
    yield from _block(prefix, model.mtp.block)
    yield prefix + "enorm.weight", model.mtp.enorm.weight
    yield prefix + "hnorm.weight", model.mtp.hnorm.weight
    yield prefix + "eh_proj.weight", model.mtp.eh_proj.weight
    yield prefix + "shared_head.norm.weight", model.mtp.norm.weight
    yield prefix + "embed_tokens.weight", model.embed_tokens.weight
    yield prefix + "shared_head.head.weight", model.lm_head.weight


def read_config(folder: Path) -> ModelConfig:
    """Raises KibanError if it is no DeepSeek-V3, or has a field whose value cannot be honoured."""
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != "deepseek_v3":
        raise KibanError(f"{path}: model_type is {content.get('model_type')!r}; only 'deepseek_v3' can be loaded")
    for field, value in FIXED.items():
        if content.get(field, value) != value:
            raise KibanError(f"{path}: {field}={content[field]!r} cannot be honoured; only {value!r} can")
    if "quantization_config" in content:
        raise KibanError(f"{path}: quantised weights cannot be loaded; use an unquantised checkpoint")
    numbers = {name: content[name] for name in ModelConfig.model_fields if name in content}
    if "rope_theta" not in content and "rope_theta" in (content.get("rope_parameters") or {}):
        numbers["rope_theta"] = content["rope_parameters"]["rope_theta"]
    return ModelConfig(**numbers | {"rope_scaling": _yarn(content, path)})


def _yarn(content: dict[str, Any], path: Path) -> Yarn | None:
    """`rope_scaling`, or as newer tools write it, `rope_parameters`."""
    given = content.get("rope_scaling") or content.get("rope_parameters") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise KibanError(f"{path}: rope_scaling of type {kind!r} cannot be honoured; only 'yarn' can")
    numbers = {name: given[name] for name in Yarn.model_fields if name in given}
    try:
        return Yarn(**{"original_max_position_embeddings": content.get("max_position_embeddings"), **numbers})
    except ValidationError as error:
        first = error.errors()[0]
        raise KibanError(f"{path}: rope_scaling.{first['loc'][0]}: {first['msg'].lower()}") from None


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that `save` wrote, or that another tool wrote in the same layout.

    Raises:
        KibanError: if a tensor is missing or of another shape, or the configuration cannot be honoured.
    """
    config = read_config(folder)
    index = folder / INDEX
    files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (folder / file).is_file():
            raise KibanError(f"{folder / file}: missing; copy the whole folder again")
        with safe_open(str(folder / file), framework="pt") as opened:
            tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    has_mtp = f"model.layers.{config.num_hidden_layers}.eh_proj.weight" in tensors
    config = config.model_copy(update={"num_nextn_predict_layers": int(has_mtp)})
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in [*_named(model), *_named_mtp(model)]:
            if name not in tensors:
                raise KibanError(f"{folder}: there is no tensor {name}; the checkpoint is not whole")
            if tensors[name].shape != parameter.shape:
                found, wanted = list(tensors[name].shape), list(parameter.shape)
                raise KibanError(f"{folder}: {name} is {found}, config.json says {wanted}")
            parameter.copy_(tensors[name])
    model.to(dtype)
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias = module.e_score_correction_bias.float()
    return model
