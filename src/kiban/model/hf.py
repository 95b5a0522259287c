"""The Hugging Face layout of `DeepseekV3ForCausalLM`, both ways.

Written by hand, tensor by tensor: `save_pretrained` casts the routing bias, and knows no MTP layer. One shard is in
memory at a time.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.model.fp8 import dequantise, is_quantised, quantise, scale_shape
from kiban.model.hf_config import hf_config, read_config, read_fp8_block
from kiban.model.tensor_files import TensorFiles, write_tensors
from kiban.model.transformer import Transformer

SHARD_BYTES = 4 * 1024**3
INDEX = "model.safetensors.index.json"
BIAS = "e_score_correction_bias"
FLOATS = {"F64", "F32", "F16", "BF16"}
# What a model may differ in from the checkpoint that it begins with: the MTP layer serves training alone, and weights
# that are there need no initialisation.
FREE = {"num_nextn_predict_layers", "initializer_range"}


def save(
    model: Transformer,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    bos_id: int = 0,
    eos_id: int = 1,
    pad_id: int = 2,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes the weights in shards, the index and config.json, fsynced; gives the number of tensors.

    With dtype float8_e4m3fn, projections are block-wise fp8 and the rest bfloat16; the routing bias is always float32.
    The MTP layer stands in shards of its own, so that it can be left out, with copies of embedding and head, since some
    loaders want both.

    Raises:
        OSError: if it cannot be written (a full disk). Then there is no config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(list(_named(model)), dtype, shard_bytes) + _shards(list(_named_mtp(model)), dtype, shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        names, size = _write_shard(folder / file, shard, dtype)
        weight_map |= dict.fromkeys(names, file)
        total += size
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / "config.json", hf_config(model.config, dtype, bos_id, eos_id, pad_id))
    return len(weight_map)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model that `save` wrote, or that another tool wrote in the same layout. Block-wise fp8 is dequantised. There
    is an MTP layer if the checkpoint has one, whatever config.json says (transformers always writes that there is).

    Raises:
        KibanError: if a file or tensor is missing, damaged or of another shape, or config.json cannot be honoured.
    """
    checkpoint = _Checkpoint(folder)
    model = Transformer(checkpoint.config).to(dtype)
    model.dtype = dtype
    for module in model.modules():
        if hasattr(module, BIAS):
            setattr(module, BIAS, getattr(module, BIAS).float())
    checkpoint.fill([*_named(model), *_named_mtp(model, copies=False)])
    return model


def load_into(model: Transformer, folder: Path, say: Callable[[str], None]) -> None:
    """Fills a model with the weights of a checkpoint, to train it further. What is not taken over is said: an MTP layer
    that only one of them has, and embedding or head of the checkpoint's MTP layer where they are not the model's.

    Raises:
        KibanError: if the checkpoint is of another configuration (the first field that differs is named), or as `load`.
    """
    checkpoint = _Checkpoint(folder)
    here, there = model.config.model_dump(), checkpoint.config.model_dump()
    for field in here:
        if field not in FREE and here[field] != there[field]:
            raise KibanError(
                f"{folder}: {field} is {there[field]} there and {here[field]} in this model; begin with a checkpoint "
                "of the same configuration, or set the model to it"
            )
    named = list(_named(model))
    if model.mtp is not None and checkpoint.has_mtp:
        named += _named_mtp(model, copies=False)
    checkpoint.fill(named)
    for copy, of in checkpoint.other_copies() if model.mtp is not None else []:
        say(f"{folder}: {copy} is not {of}; it is left out, since the MTP layer shares that one here")
    if model.mtp is not None and not checkpoint.has_mtp:
        say(f"{folder}: has no MTP layer; this model's begins untrained")
    elif model.mtp is None and checkpoint.has_mtp:
        say(f"{folder}: has an MTP layer, this model has none; it is left out")


class _Checkpoint:
    """A folder to read from: its configuration, and its tensors one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_config(folder)
        self.block = read_fp8_block(folder)
        self.files = TensorFiles(_weight_files(folder))
        self.has_mtp = f"model.layers.{config.num_hidden_layers}.eh_proj.weight" in self.files
        self.config = config.model_copy(update={"num_nextn_predict_layers": int(self.has_mtp)})

    @torch.no_grad()
    def fill(self, named: list[tuple[str, Tensor]]) -> None:
        """Checks every tensor first, so that a model is filled wholly or not at all."""
        for name, parameter in named:
            self._check(name, list(parameter.shape))
        self._check_known()
        for name, parameter in named:
            value = self.files.read(name)
            if value.dtype == torch.float8_e4m3fn:
                assert self.block is not None
                value = dequantise(value, self.files.read(name + "_scale_inv"), self.block)
            parameter.copy_(value)

    def other_copies(self) -> list[tuple[str, str]]:
        """Of the MTP layer's embedding and head, those that are not the model's, each with the model's name."""
        prefix = f"model.layers.{self.config.num_hidden_layers}."
        pairs = [
            (prefix + "embed_tokens.weight", "model.embed_tokens.weight"),
            (prefix + "shared_head.head.weight", "lm_head.weight"),
        ]
        return [
            (copy, of)
            for copy, of in pairs
            if copy in self.files and not torch.equal(self.files.read(copy), self.files.read(of))
        ]

    def _check(self, name: str, wanted: list[int]) -> None:
        if name not in self.files:
            raise KibanError(f"{self.folder}: there is no tensor {name}; the checkpoint is not whole, copy it again")
        path, found, kind = self.files.path(name), self.files.shape(name), self.files.kind(name)
        if found != wanted:
            raise KibanError(f"{path}: {name} is {found}, config.json says {wanted}; they are of different models")
        if kind == "F8_E4M3":
            if self.block is None:
                raise KibanError(
                    f"{path}: {name} is fp8, but config.json has no quantization_config; restore it, or take an "
                    "unquantised checkpoint"
                )
            self._check_scale(name + "_scale_inv", scale_shape(wanted, self.block))
        elif kind not in FLOATS:
            raise KibanError(f"{path}: {name} is of type {kind}, which cannot be read; take an unquantised checkpoint")

    def _check_scale(self, name: str, wanted: list[int]) -> None:
        if name not in self.files:
            raise KibanError(f"{self.folder}: there is no tensor {name}; the checkpoint is not whole, copy it again")
        if self.files.shape(name) != wanted or self.files.kind(name) not in FLOATS:
            raise KibanError(
                f"{self.files.path(name)}: {name} is {self.files.shape(name)} of type {self.files.kind(name)}; blocks "
                f"of {self.block} need {wanted} of type F32"
            )

    def _check_known(self) -> None:
        """A tensor without a place would be a part of the model that is silently left out."""
        with torch.device("meta"):
            whole = Transformer(self.config)
        known = {name for name, _ in [*_named(whole), *_named_mtp(whole)]}
        known |= {f"{name}_scale_inv" for name in known}
        unknown = sorted(name for name in self.files.names - known if not name.endswith("rotary_emb.inv_freq"))
        if unknown:
            raise KibanError(
                f"{self.files.path(unknown[0])}: {unknown[0]} has no place in the model that config.json describes "
                f"({len(unknown)} such tensors); they are of different models"
            )


def _weight_files(folder: Path) -> list[Path]:
    path = folder / INDEX
    if not path.exists():
        return [folder / "model.safetensors"]
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise KibanError(f"{path}: has no weight_map from tensors to files; copy it again")
    return [folder / file for file in sorted(set(weight_map.values()))]


def _shards(named: list[tuple[str, Tensor]], dtype: torch.dtype, most: int) -> list[list[tuple[str, Tensor]]]:
    """In order, each with at most so many bytes on disk, if its first tensor has not more. Views: nothing is copied."""
    shards: list[list[tuple[str, Tensor]]] = []
    size = 0
    for name, tensor in named:
        stored = tensor.numel() * _dtype_of(name, dtype).itemsize
        if _dtype_of(name, dtype) == torch.float8_e4m3fn:
            rows, columns = scale_shape(list(tensor.shape))
            stored += 4 * rows * columns
        if not shards or size + stored > most:
            shards, size = [*shards, []], 0
        shards[-1].append((name, tensor))
        size += stored
    return shards


def _write_shard(path: Path, shard: list[tuple[str, Tensor]], dtype: torch.dtype) -> tuple[list[str], int]:
    """The names that were written, and the bytes of their tensors."""
    tensors = {name: value for source in shard for name, value in _stored(*source, dtype).items()}
    write_tensors(path, tensors)
    return list(tensors), sum(value.nbytes for value in tensors.values())


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is written for a tensor, in memory of its own."""
    tensor = tensor.detach().cpu()
    if _dtype_of(name, dtype) == torch.float8_e4m3fn:
        weight, scale = quantise(tensor)
        return {name: weight, f"{name}_scale_inv": scale}
    return {name: tensor.to(_dtype_of(name, dtype), copy=True).contiguous()}


def _dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    if name.endswith(BIAS):
        return torch.float32
    if dtype == torch.float8_e4m3fn and not is_quantised(name):
        return torch.bfloat16
    return dtype


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
            for expert, weight in enumerate(tensor.detach()):
                gate, up = weight.chunk(2)
                yield f"{prefix}mlp.experts.{expert}.gate_proj.weight", gate
                yield f"{prefix}mlp.experts.{expert}.up_proj.weight", up
        elif name == "mlp.experts.down_proj":
            for expert, weight in enumerate(tensor.detach()):
                yield f"{prefix}mlp.experts.{expert}.down_proj.weight", weight
        else:
            yield prefix + name, tensor


def _named_mtp(model: Transformer, copies: bool = True) -> Iterator[tuple[str, Tensor]]:
    """`copies`: embedding and head, which the layer shares with the model."""
    if model.mtp is None:
        return
    prefix = f"model.layers.{model.config.num_hidden_layers}."
    yield from _block(prefix, model.mtp.block)
    yield prefix + "enorm.weight", model.mtp.enorm.weight
    yield prefix + "hnorm.weight", model.mtp.hnorm.weight
    yield prefix + "eh_proj.weight", model.mtp.eh_proj.weight
    yield prefix + "shared_head.norm.weight", model.mtp.norm.weight
    if copies:
        yield prefix + "embed_tokens.weight", model.embed_tokens.weight
        yield prefix + "shared_head.head.weight", model.lm_head.weight
