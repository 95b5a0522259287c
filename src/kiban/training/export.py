"""The stage `export`: a trained model in the Hugging Face layout, with its tokenizer and a card."""

import shutil
from pathlib import Path

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


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


def export_run(run: Path, tokenizer: Path, out: Path) -> int:
    """Exports the run or checkpoint in `run`; gives the number of tensors.

    Raises:
        KibanError: if `run` holds no trained model.
    """
    from safetensors.torch import load_file

    from kiban.model import hf
    from kiban.model.config import ModelConfig
    from kiban.model.transformer import Transformer
    from kiban.tokenizer.special import BOS, EOS, PAD

    if not (run / "model.safetensors").is_file():
        raise KibanError(f"{run}: holds no model.safetensors; give a programme, or a folder that the model stage made")
    checkpoint = run / "state.json"
    config = ModelConfig(
        **(read_json(checkpoint)["identity"]["model"] if checkpoint.is_file() else read_json(run / "config.json"))
    )
    trained = Transformer(config)
    trained.load_state_dict(load_file(run / "model.safetensors"))
    tensors = hf.save(trained, out, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, out / name)
    write_json(out / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    return tensors


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
