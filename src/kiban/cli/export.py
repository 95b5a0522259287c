"""`kiban export`: a trained model in the Hugging Face layout."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import MANIFEST
from kiban.artifacts.store import Artifact, Store, read_artifact
from kiban.programme import graph, runner
from kiban.programme.settings import PROGRAMME_FILE, load
from kiban.training.export import card, export_run


def export(
    path: Annotated[Path, typer.Argument(help="A programme, or a model artifact of one.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
) -> None:
    """Writes config.json, weights and tokenizer as transformers, vLLM and SGLang load them.

    Example: kiban export recipes/demo --to model-hf
    """
    if to.exists() and any(to.iterdir()):
        raise KibanError(f"{to}: not empty; give a new folder")
    if (path / MANIFEST).is_file():
        model = read_artifact(path)
        if model.kind != "model":
            raise KibanError(f"{path}: a {model.kind}; give a model, or a programme")
        tokenizer = _input_of(model, "tokenizer")
    elif path.name == PROGRAMME_FILE or (path / PROGRAMME_FILE).is_file():
        programme = load(path)
        steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
        made = {step.node.name: step.artifact for step in steps if step.artifact}
        if "model" not in made:
            raise KibanError(f"{path}: no model is made yet; `kiban run {path} --to model` makes it")
        model, tokenizer = made["model"], made["tokenizer"]
    else:
        raise KibanError(f"{path}: neither a programme (kiban.toml) nor an artifact (manifest.json)")
    model.check()
    try:
        to.mkdir(parents=True, exist_ok=True)
        tensors = export_run(model.path, tokenizer.path, to)
        (to / "README.md").write_text(card(model.name, model.rights), encoding="utf-8")
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    print(f"{to}: {tensors} tensors")


def _input_of(artifact: Artifact, name: str) -> Artifact:
    """The input of an artifact that lies in a store: <store>/artifacts/<kind>/<hex>."""
    found = Store(artifact.path.parents[2]).find(name, artifact.manifest.inputs[name])
    if found is None:
        raise KibanError(f"{artifact.path}: its {name} is not in the same store; export from the programme")
    return found
