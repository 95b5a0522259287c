"""`kiban tokenizer`: trains one, shows how it cuts a text, compares it with others."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.artifacts.progress import Progress
from kiban.cli.show import print_json

if TYPE_CHECKING:
    from kiban.tokenizer.bpe import Tokenizer

app = typer.Typer(help="Trains, shows and compares tokenizers.", no_args_is_help=True, rich_markup_mode=None)

COLOURS = ("on dark_cyan", "on dark_goldenrod", "on dark_green", "on purple4", "on dark_red", "on grey37")


@app.command()
def train(
    files: Annotated[
        list[Path], typer.Argument(help="UTF-8 text, one document a file; or Parquet with a column text.")
    ],
    vocabulary: Annotated[int, typer.Option(help="Entries, special tokens included.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    second_stage: Annotated[float, typer.Option(min=0, max=0.95, help="The share of merges over clauses.")] = 0.3,
) -> None:
    """Trains a tokenizer, without a programme.

    Example: kiban tokenizer train a.txt b.txt --vocabulary 8192 --to words
    """
    from kiban.tokenizer.bpe import Tokenizer

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise KibanError(f"{to}: not empty; give a new folder")
    with Progress().task("learning merges", None, "documents") as task:

        def texts() -> Iterator[str]:
            for text in _texts(files):
                task.advance()
                yield text

        made = Tokenizer.train(texts(), vocabulary, second_stage=second_stage)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as folder:
        made.save(Path(folder))
        if to.exists():
            to.rmdir()
        Path(folder).rename(to)
        Path(folder).mkdir()  # for TemporaryDirectory to remove
    print(f"{to}: {made.vocab_size} entries")


@app.command()
def show(
    text: Annotated[str, typer.Argument(help="The text to cut.")],
    folder: Annotated[Path, typer.Option("--tokenizer", help="A folder with Kiban's tokenizer.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The tokens of a text, each in a colour; where a character is cut, its bytes.

    Example: kiban tokenizer show 安全靴を着用してください --tokenizer words
    """
    from rich.console import Console
    from rich.text import Text

    from kiban.tokenizer.bpe import Tokenizer

    words = Tokenizer.load(folder)
    ids = words.encode(text)
    pieces = [_printed(words, token) for token in ids]
    if as_json:
        print_json({"ids": ids, "tokens": pieces, "characters": len(text)})
        return
    line = Text()
    for number, piece in enumerate(pieces):
        line.append(piece, COLOURS[number % len(COLOURS)])
    console = Console(highlight=False)
    if not console.is_terminal:  # no colours to tell the tokens apart
        line = Text("|".join(pieces))
    console.print(line, soft_wrap=True)
    if ids:
        print(f"{len(ids)} tokens, {len(text)} characters: {len(text) / len(ids):.2f} characters a token")


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Folders of Kiban's, tokenizer.json, .model, .tiktoken.")],
    text: Annotated[list[str] | None, typer.Option(help="DOMAIN=FILE, as often as you like; else the demo's.")] = None,
    picture: Annotated[Path | None, typer.Option(help="An SVG to write.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of timing.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Characters a token, bytes a token, MB/s on one core and vocabulary, by domain.

    Example: kiban tokenizer compare words other/tokenizer.json --text novel=novel.txt --picture compared.svg
    """
    from rich.console import Console
    from rich.table import Table

    from kiban.tokenizer import comparing

    figures = comparing.compare([comparing.contestant(path) for path in files], _domains(text), rounds)
    if picture:
        write_atomic(picture, comparing.picture(figures).encode())
    if as_json:
        keys = ("tokenizer", "vocabulary", "domain", "tokens")
        measures = ("characters_per_token", "bytes_per_token", "megabytes_per_second")
        print_json([{key: getattr(figure, key) for key in (*keys, *measures)} for figure in figures])
        return
    most = max(figure.characters_per_token for figure in figures)
    table = Table(box=None, pad_edge=False)
    for name in ("domain", "tokenizer"):
        table.add_column(name)
    for name in ("vocabulary", "characters/token", "bytes/token", "MB/s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for figure in figures:
        table.add_row(
            figure.domain,
            figure.tokenizer,
            f"{figure.vocabulary:,}",
            f"{figure.characters_per_token:.3f}",
            f"{figure.bytes_per_token:.2f}",
            f"{figure.megabytes_per_second:.1f}",
            "█" * round(24 * figure.characters_per_token / most),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # nothing is cut in a file or a pipe
    console.print(table)


def _printed(words: "Tokenizer", token: int) -> str:
    spelt = words.decode_bytes([token])
    try:
        return spelt.decode().replace("\n", "⏎").replace("\r", "␍").replace("\t", "→")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in spelt)


def _domains(given: list[str] | None) -> dict[str, list[str]]:
    if not given:
        from kiban.corpus.demo_text import passages

        return {"demo": [passage.text for passage in passages()]}
    found: dict[str, list[str]] = {}
    for item in given:
        domain, equals, path = item.partition("=")
        if not equals:
            raise KibanError(f"--text {item}: not of the form DOMAIN=FILE")
        found.setdefault(domain, []).extend(_texts([Path(path)]))
    return found


def _texts(files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            if path.suffix == ".parquet":
                import pyarrow.parquet as pq

                for batch in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
                    yield from batch["text"].to_pylist()
            else:
                yield path.read_bytes().decode("utf-8")
        except OSError as error:
            raise KibanError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise KibanError(f"{path}: not UTF-8 (byte {error.start}); convert it first") from None
        except (KeyError, ValueError) as error:
            raise KibanError(f"{path}: holds no column `text` that can be read ({error})") from None
