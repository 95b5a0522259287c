"""`kiban tokens` and `kiban train`: packing and training outside a programme."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_json
from kiban.artifacts.progress import Progress


def tokens(
    files: Annotated[list[Path], typer.Argument(help="Plain text files, UTF-8. One document each.")],
    tokenizer: Annotated[Path, typer.Option(help="A folder with Kiban's tokenizer.json.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
) -> None:
    """Packs text into token shards, without a programme.

    Example: kiban tokens a.txt b.txt --tokenizer model-hf --to packed
    """
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore, pack

    if to.exists() and any(to.iterdir()):
        raise KibanError(f"{to}: not empty; give a new folder")
    words = Tokenizer.load(tokenizer)
    documents = [(str(path), "files", _read(path)) for path in files]
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as made:
        list(pack(words, documents, Path(made)))
        words.save(Path(made))
        total = TokenStore.open(Path(made)).total
        shutil.rmtree(to, ignore_errors=True)
        Path(made).rename(to)
        Path(made).mkdir()  # for TemporaryDirectory to remove
    print(f"{to}: {total} tokens of {len(documents)} documents")


def train(
    data: Annotated[Path, typer.Option(help="A folder with packed tokens.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")],
    preset: Annotated[str, typer.Option(help="nano, tiny, small, base, large, trillion.")] = "nano",
    json_log: Annotated[Path, typer.Option(help="A JSON line a step.")] = Path("log.jsonl"),
    to: Annotated[Path, typer.Option(help="Where the model and its checkpoints go.")] = Path("run"),
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the data.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 3e-3,
) -> None:
    """Trains outside a programme. Interrupt it and run it again: it goes on.

    Example: kiban train --preset nano --data packed --steps 100 --json-log log.jsonl
    """
    from safetensors.torch import save_file

    from kiban.model.presets import preset as config_of
    from kiban.tokenizer.packing import TokenStore
    from kiban.training.loop import train as run
    from kiban.training.settings import TrainingSettings

    store = TokenStore.open(data)
    config = config_of(preset, store.vocab_size)
    settings = TrainingSettings(preset=preset, seed=seed, learning_rate=learning_rate)
    per_step = settings.batch_sequences * config.max_position_embeddings
    settings = settings.model_copy(update={"tokens": steps * per_step})
    done = run(config, store, settings, json_log, to / "checkpoints", Progress())
    write_json(to / "config.json", config.model_dump())
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in done.model.state_dict().items()}
    save_file(state, to / "model.safetensors")
    print(f"{to}: loss {done.loss:.4f} after {done.num_steps} steps, {done.tokens_per_s:.0f} tokens/s")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise KibanError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KibanError(f"{path}: not UTF-8 (byte {error.start}); convert it first") from None
