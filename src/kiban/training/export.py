"""The stage `export`: a trained model in the Hugging Face layout, with its tokenizer and a card."""

from pathlib import Path
from typing import Literal

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
Dtype = Literal["float32", "bfloat16", "fp8"]


class ExportSettings(Settings):
    """Nothing to set: the export is the model."""


@stage("export", inputs=("model", "tokenizer"), version=1)
def export(settings: ExportSettings, model: Artifact, tokenizer: Artifact, out: Path, progress: Progress) -> Outcome:
    """Writes what transformers, vLLM and SGLang load."""
    tensors = export_run(model.path, tokenizer.path, out)
    write_atomic(out / "README.md", card(model.name, model.rights))
    size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    return Outcome(
        {
            "export.tensors": Metric(value=tensors, unit="tensors"),
            "export.bytes": Metric(value=size, unit="bytes"),
        }
    )


def export_run(run: Path, tokenizer: Path, out: Path, dtype: Dtype = "float32") -> int:
    """Exports the run or checkpoint in `run`; gives the number of tensors. A shard at a time is in memory.

    Raises:
        KibanError: if `run` holds no trained model, or a damaged one.
        OSError: if it cannot be written (a full disk).
    """
    import torch
    from pydantic import ValidationError

    from kiban.model import hf
    from kiban.model.config import ModelConfig
    from kiban.model.tensor_files import TensorFiles
    from kiban.model.transformer import Transformer
    from kiban.tokenizer.special import BOS, EOS, PAD

    checkpoint = is_checkpoint(run)
    weights, described = run / "model.safetensors", run / ("state.json" if checkpoint else "config.json")
    if not checkpoint and not weights.is_file():
        raise KibanError(f"{run}: holds no model.safetensors; give a programme, or a folder that the model stage made")
    content = read_json(described)
    try:
        config = ModelConfig(**(content["identity"]["model"] if checkpoint else content))
    except (KeyError, TypeError, ValidationError):
        raise KibanError(f"{described}: describes no model; restore it, or export another checkpoint") from None
    # The weights of a run stay in the file until their shard is written: the model has no memory of its own.
    with torch.device("meta"):
        trained = Transformer(config)
    wanted = {name: list(tensor.shape) for name, tensor in trained.state_dict().items()}
    if checkpoint:
        from kiban.training.checkpoint import MODEL, check, read_tensors

        check(run)
        tensors = read_tensors(run, MODEL)
        found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    else:
        files = TensorFiles([weights])
        found = {name: files.shape(name) for name in files.names}
    if found != wanted:
        raise KibanError(f"{run}: the weights are not of the model that {described.name} describes; copy both again")
    if not checkpoint:
        tensors = {name: files.read(name) for name in wanted}
    trained.load_state_dict(tensors, assign=True)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    number = hf.save(trained, out, kinds[dtype], bos_id=BOS, eos_id=EOS, pad_id=PAD)
    for name in TOKENIZER_FILES:
        write_atomic(out / name, (tokenizer / name).read_bytes())
    write_json(out / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    return number


def is_checkpoint(path: Path) -> bool:
    return (path / "state.json").is_file()


def partial_blocks(out: Path) -> int:
    """How many weights of an fp8 export end in part of a block."""
    from kiban.model.fp8 import ends_in_part
    from kiban.model.tensor_files import TensorFiles

    files = TensorFiles(sorted(out.glob("*.safetensors")))
    return sum(ends_in_part(files.shape(name)) for name in files.names if f"{name}_scale_inv" in files)


def card(name: str, rights: Rights) -> str:
    """A model card that says what the weights may be used for and what is owed for them."""
    terms = rights.model_dump(mode="json")
    obligations = "\n".join(f"- {duty}" for duty in terms["obligations"]) or "- none"
    return f"""---
language: ja
library_name: transformers
---
# {name}

A DeepSeek-V3-type mixture of experts trained by Kiban.

May be used to: {", ".join(terms["uses"])}.
Residency: {", ".join(terms["residency"])}. Expires: {terms["expires"] or "never"}.

Obligations:

{obligations}
"""
