"""`kiban init`: a programme to start from, over the demo text or over a person's own documents."""

from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.programme.settings import PROGRAMME_FILE

# File name endings -> the reader for them.
FORMATS = {".txt": "plain", ".md": "markdown", ".html": "html", ".htm": "html", ".jsonl": "jsonl", ".po": "po"}

HEAD = """\
# A Kiban programme. `kiban run` makes what is missing; `kiban run --explain` says what that would be.

[programme]
name = "{name}"
seed = 1
demo_keys = true          # signing keys made by the first run, marked as demo keys

[[partner]]
name = "self"             # whoever gives the data
"""

DEMO_SOURCE = """
[[source]]
name = "demo"
path = "kiban:demo"       # original Japanese text that comes with Kiban
format = "demo"
partner = "self"
licence = "Apache-2.0"
uses = ["pretrain", "evaluate", "generate", "redistribute", "serve"]
residency = ["*"]
megabytes = 4.0
"""

OWN_SOURCE = """
[[source]]
name = "{name}"
path = "{path}"
format = "{format}"
partner = "self"
licence = "proprietary"
uses = ["pretrain", "evaluate", "generate", "serve"]
residency = ["JP"]
"""

TAIL = """
[model]
preset = "nano"           # the one dial: nano, tiny, small, base, large, trillion

[training]
tokens = "1M"

[evaluation]
limit = 200               # items of each suite; without it all of them, which takes minutes
"""


def init(
    folder: Annotated[Path, typer.Argument(help="Where the programme shall be.")],
    text: Annotated[Path | None, typer.Option(help="A folder with your own documents.")] = None,
) -> None:
    """Makes a programme: over the demo text, or over your own documents (.txt, .md, .html, .jsonl, .po).

    Example: kiban init mine --text ~/documents
    """
    file = folder / PROGRAMME_FILE
    if file.exists():
        raise KibanError(f"{file}: there is a programme already; choose another folder, or edit that file")
    sources = DEMO_SOURCE if text is None else _sources_of(text)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in folder.absolute().name.lower()).strip("-")
    write_atomic(file, HEAD.format(name=name or "programme") + sources + TAIL)
    print(f"{file} is written; next: kiban run {folder}")


def _sources_of(text: Path) -> str:
    if not text.is_dir():
        raise KibanError(f"{text}: not a folder; give the folder that holds your documents")
    found = sorted({FORMATS[p.suffix.lower()] for p in text.rglob("*") if p.suffix.lower() in FORMATS and p.is_file()})
    if not found:
        raise KibanError(f"{text}: no document with one of the endings {', '.join(FORMATS)}; convert them first")
    path = str(text.expanduser().absolute()).replace("\\", "\\\\").replace('"', '\\"')
    return "".join(OWN_SOURCE.format(name=f"own-{format}", path=path, format=format) for format in found)
