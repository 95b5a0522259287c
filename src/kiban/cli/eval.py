"""`kiban eval`: scores of texts and suites."""

from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.cli.show import print_json

app = typer.Typer(help="Scores a model.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="An exported model (Hugging Face layout).")],
    text_file: Annotated[Path, typer.Option(help="UTF-8 text to score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The log-likelihood of a text, in nats, and bits per character.

    Example: kiban eval score model-hf --text-file letter.txt --json
    """
    from kiban.evaluation.scoring import Scorer

    try:
        text = text_file.read_bytes().decode("utf-8")  # as given: line ends too
    except OSError as error:
        raise KibanError(f"{text_file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KibanError(f"{text_file}: not UTF-8 (byte {error.start}); convert it first") from None
    if not text:
        raise KibanError(f"{text_file}: empty; there is nothing to score")
    [found] = Scorer.load(folder).texts([text])
    answer = {
        "log_likelihood": found.log_likelihood,
        "tokens": found.tokens,
        "characters": found.characters,
        "bits_per_character": found.bits_per_character,
    }
    if as_json:
        print_json(answer)
    else:
        print(
            f"{found.bits_per_character:.4f} bits/character over {found.characters} characters, {found.tokens} tokens"
        )


@app.command("list")
def list_suites() -> None:
    """What each suite measures, and whose it is.

    Example: kiban eval list
    """
    from kiban.evaluation import suite

    for name in suite.names():
        found = suite.load(name)
        print(f"{name:20} {found.measures} ({found.source}; {found.licence})")
