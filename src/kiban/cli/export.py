"""`kiban export`: a trained model in the Hugging Face layout."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.artifacts.manifest import MANIFEST
from kiban.artifacts.store import Artifact, Store, read_artifact
from kiban.programme import graph, runner
from kiban.programme.settings import PROGRAMME_FILE, load
from kiban.training.export import Dtype, card, export_run, is_checkpoint, partial_blocks


def export(
    path: Annotated[
        Path, typer.Argument(help="A programme, a model artifact, a run of `kiban train`, or a checkpoint.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Where tokenizer.json lies, if not with the run.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the weights; fp8 is block-wise e4m3 as DeepSeek-V3's, the rest bfloat16.")
    ] = "float32",
) -> None:
    """Writes config.json, weights and tokenizer as transformers, vLLM and SGLang load them.

    Example: kiban export recipes/demo --to model-hf --dtype bfloat16
    """
    if to.exists() and any(to.iterdir()):
        raise KibanError(f"{to}: not empty; give a new folder")
    model: Artifact | None = None
    if (path / MANIFEST).is_file():
        model = read_artifact(path)
        if model.kind != "model":
            raise KibanError(f"{path}: a {model.kind}; give a model, or a programme")
        words = tokenizer or _input_of(model, "tokenizer").path
    elif path.name == PROGRAMME_FILE or (path / PROGRAMME_FILE).is_file():
        programme = load(path)
        steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
        made = {step.node.name: step.artifact for step in steps if step.artifact}
        if "model" not in made:
            raise KibanError(f"{path}: no model is made yet; `kiban run {path} --to model` makes it")
        model, words = made["model"], tokenizer or made["tokenizer"].path
    elif (path / "model.safetensors").is_file() or is_checkpoint(path):
        words = tokenizer or _beside(path)
    else:
        raise KibanError(
            f"{path}: neither a programme (kiban.toml), an artifact (manifest.json), a run nor a checkpoint"
        )
    if model:
        model.check()
    try:
        to.mkdir(parents=True, exist_ok=True)
        tensors = export_run(model.path if model else path, words, to, dtype)
        if model:
            write_atomic(to / "README.md", card(model.name, model.rights))
    except OSError as error:
        shutil.rmtree(to, ignore_errors=True)
        raise KibanError(
            f"{error.filename or to}: cannot be written or read ({error.strerror}); mend that, and export again"
        ) from None
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    print(f"{to}: {tensors} tensors")
    if dtype == "fp8" and (partial := partial_blocks(to)):
        print(
            f"{to}: {partial} weights end in part of a 128 x 128 block, as DeepSeek-V3's kv_a_proj_with_mqa does; "
            "transformers 5 refuses or misreads those when it dequantises for a CPU: give it --dtype bfloat16"
        )


def _beside(run: Path) -> Path:
    """The folder with the tokenizer of a run, or of the run of a checkpoint (<run>/checkpoints/step-00000120)."""
    for folder in (run, run.absolute().parents[1]):
        if (folder / "tokenizer.json").is_file():
            return folder
    raise KibanError(f"{run}: no tokenizer.json lies with it; name its folder by --tokenizer")


def _input_of(artifact: Artifact, name: str) -> Artifact:
    """The input of an artifact that lies in a store: <store>/artifacts/<kind>/<hex>."""
    found = Store(artifact.path.parents[2]).find(name, artifact.manifest.inputs[name])
    if found is None:
        raise KibanError(f"{artifact.path}: its {name} is not in the same store; export from the programme")
    return found
