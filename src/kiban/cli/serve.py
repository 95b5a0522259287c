"""`kiban serve` and `kiban chat`: an exported model over HTTP, or in the terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.programme import graph, runner
from kiban.programme.settings import PROGRAMME_FILE, load

Model = Annotated[Path, typer.Argument(help="An exported model (Hugging Face layout), or a programme.")]


def serve(
    path: Model,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
) -> None:
    """Serves the model with OpenAI's API: models, chat completions, completions.

    Example: kiban serve model-hf --port 8000
    """
    import uvicorn

    from kiban.serving.engine import Engine
    from kiban.serving.server import create_app

    engine = Engine(_exported(path))
    print(f"http://{host}:{port}/v1  model {engine.name}", file=sys.stderr)
    uvicorn.run(create_app(engine), host=host, port=port, log_level="warning")


def chat(
    path: Model,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.7,
) -> None:
    """Talks with the model in the terminal. An empty line or the end of input ends it.

    Example: kiban chat model-hf
    """
    from kiban.serving.engine import Engine, Sampling

    engine = Engine(_exported(path))
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = input("> ")
        except EOFError:
            return
        if not said:
            return
        messages.append({"role": "user", "content": said})
        prompt = engine.words.chat_tokens(messages)
        room = engine.context - len(prompt)
        if room < 1:
            print("the conversation fills the model's context; it begins anew", file=sys.stderr)
            messages = []
            continue
        answer = ""
        for piece in engine.complete(prompt, Sampling(max_tokens=min(200, room), temperature=temperature, top_p=0.95)):
            print(piece.text, end="", flush=True)
            answer += piece.text
        print()
        messages.append({"role": "assistant", "content": answer})


def _exported(path: Path) -> Path:
    if path.name != PROGRAMME_FILE and not (path / PROGRAMME_FILE).is_file():
        return path
    programme = load(path)
    steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
    for step in steps:
        if step.node.name == "export" and step.artifact:
            return step.artifact.path
    raise KibanError(f"{path}: no model is exported yet; `kiban run {path} --to export` makes one")
