"""A suite is a file of data: what is asked, how it is scored, where the items come from. See `suites/*.toml`."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.hashing import sha256_bytes

HERE = Path(__file__).parent
SUITES = HERE / "suites"
SUFFIXES = (".csv", ".json", ".jsonl", ".tsv", ".en-ja", ".formal", ".informal")  # of data in a folder
POOL = 16  # items that examples are drawn from: never asked where examples are shown


class Suite(BaseModel):
    """`rule` is how items are scored:

    - `pairs`: the good sentence of each pair must be likelier than the bad one;
    - `choice`: of the choices, the right one's log-likelihood after the prompt must be the highest;
    - `scale`: the choices are numbers; their mean under the model is correlated with what people said;
    - `generate`: what the model writes after the prompt must match a reference;
    - `register`: what the model writes must keep a register, checked by rules (see `register.py`);
    - `text`: bits per character of documents.

    `prompt` is filled with the fields of a row by `str.format`; `variants` are other wordings of it, by name. `shots`
    examples stand before it. `choices`, if given, are the texts of labels. White space at the end of a prompt belongs
    to what follows it. `extract` is what counts of what the model wrote. `duplicates` is how many questions the
    publisher's file asks again: they stay, so that scores are those of other harnesses; any other number is an
    error.

    `file` is below `data/` here, or below the folder of evaluation sets where `external` is true.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    measures: str
    rule: Literal["pairs", "choice", "scale", "generate", "register", "text"]
    licence: str
    source: str
    version: str = "1"
    card: str | None = None
    chance: float | None = None
    file: str | None = None
    external: bool = False
    format: str | None = None
    prompt: str = ""
    variants: dict[str, str] = Field(default_factory=dict)
    shots: int = Field(default=0, ge=0)
    choices: tuple[str, ...] = ()
    max_tokens: int = Field(default=256, gt=0)
    stop: tuple[str, ...] = ()
    extract: Literal["number"] | None = None
    duplicates: int = 0

    def path(self, folder: Path | None) -> Path | None:
        """Where its items lie; None if it needs a folder of evaluation sets that is not given."""
        if self.file is None:
            return None
        if self.external:
            return folder / self.file if folder else None
        return HERE / "data" / self.file

    def files(self, folder: Path | None) -> list[Path]:
        """The files that its items are read from: those of a folder, in order."""
        path = self.path(folder)
        return files_of(path) if path else []

    def template(self, variant: str) -> str:
        """Raises KibanError if it has no such wording."""
        if variant == "default":
            return self.prompt
        if variant not in self.variants:
            known = ", ".join(["default", *self.variants])
            raise KibanError(f"suite '{self.name}': there is no prompt '{variant}'; prompts: {known}")
        return self.variants[variant]


@dataclass(frozen=True)
class Item:
    """Something to score: of `choices` after `prompt`, number `answer` is right. `by` groups items in the report.

    `references` are the texts that count as right where the model writes, `value` is the figure that people gave.
    `examples` stand before the prompt; they are kept apart, since many items share them. `content` is what no corpus
    should hold, where that is not the whole prompt.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    answer: int = 0
    by: str = field(default="")
    references: tuple[str, ...] = ()
    value: float | None = None
    examples: str = ""
    content: str = ""

    @property
    def asked(self) -> str:
        return self.examples + self.prompt

    @property
    def right(self) -> str:
        return self.references[0] if self.references else self.choices[self.answer]


def files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    return [path]


def names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load(name: str) -> Suite:
    """Raises KibanError if there is no such suite."""
    path = SUITES / f"{name}.toml"
    if not path.is_file():
        raise KibanError(f"suite '{name}': there is no such suite; suites: {', '.join(names())}")
    try:
        return Suite(name=name, **tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise KibanError(f"{path}: {error.errors()[0]['msg']}") from None


def items(suite: Suite, path: Path, variant: str = "default") -> list[Item]:
    """The suite's items, in the file's order, asked in one of its wordings.

    Raises:
        KibanError: if the file is missing, or an item lacks something, is there twice, or is not of the format.
    """
    from kiban.evaluation.readers import READERS

    template = suite.template(variant)
    texts = [(file, _read(suite, file)) for file in files_of(path)]
    found: list[Item] = []
    for file, text in texts:
        try:
            found += READERS[suite.format or suite.rule](suite, template, text, file)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            kind = type(error).__name__
            raise KibanError(f"suite '{suite.name}': {file} is not of its format ({kind}: {error})") from None
    if not found:
        raise KibanError(f"suite '{suite.name}': {path} holds no item")
    _check(suite, path, found)
    _check_duplicates(suite, path, found)
    return found


def _read(suite: Suite, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KibanError(f"suite '{suite.name}': {file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KibanError(f"suite '{suite.name}': {file} is not UTF-8; restore the publisher's file") from None


def _check(suite: Suite, path: Path, found: Sequence[Item]) -> None:
    """An item that could be scored as wrong, or as right, through no doing of the model's is no item."""
    seen: set[str] = set()
    for item in found:
        where = f"suite '{suite.name}': {path}: item {item.id}"
        if item.id in seen:
            raise KibanError(f"suite '{suite.name}': {path} holds the item {item.id} twice; restore the file")
        seen.add(item.id)
        texts = (*item.choices, *item.references)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise KibanError(f"{where} has an empty text; restore the file")
        if any("\ufffd" in text for text in (item.prompt, *texts)):
            raise KibanError(f"{where} holds U+FFFD, what is left of a wrong encoding; restore the file")
        if len(set(item.choices)) != len(item.choices):
            raise KibanError(f"{where} has the same choice twice; restore the file")
        if suite.rule in ("pairs", "choice") and not (len(item.choices) > 1 and 0 <= item.answer < len(item.choices)):
            raise KibanError(f"{where}: answer {item.answer} is none of its {len(item.choices)} choices")
        if suite.rule == "generate" and not item.references:
            raise KibanError(f"{where} has no reference; restore the file")


def _check_duplicates(suite: Suite, path: Path, found: Sequence[Item]) -> None:
    first: dict[tuple[Any, ...], Item] = {}
    twice = []
    for item in found:
        asked = (item.examples, item.prompt, item.choices, item.references)
        twice += [(item, first[asked])] if asked in first else []
        first.setdefault(asked, item)
    if len(twice) != suite.duplicates:
        named = f"; {twice[-1][0].id} asks what {twice[-1][1].id} asks" if twice else ""
        raise KibanError(
            f"suite '{suite.name}': {path} asks {len(twice)} questions again, where {suite.duplicates} are known"
            f"{named}; leave them out, or restore the publisher's file"
        )


def sample(items: Sequence[Item], limit: int | None) -> list[Item]:
    """All items, or those `limit` whose ids hash lowest: the same for every model."""
    if limit is None or len(items) <= limit:
        return list(items)
    chosen = {item.id for item in sorted(items, key=lambda item: sha256_bytes(item.id.encode()))[:limit]}
    return [item for item in items if item.id in chosen]


def with_examples(items: Sequence[Item], shots: int, seed: int) -> list[Item]:
    """The items, each after the same `shots` examples.

    Examples are drawn by `seed` from a pool of items that hash lowest. The pool is not asked whatever the seed is, so
    that seeds and numbers of examples are compared on the same items.

    Raises:
        KibanError: if there are fewer items than the pool needs.
    """
    if shots == 0:
        return list(items)
    if shots > POOL or len(items) <= POOL:
        raise KibanError(f"{shots} examples of {len(items)} items: at most {POOL} can be shown, and more must be left")
    pool = sorted(items, key=lambda item: sha256_bytes(item.id.encode()))[:POOL]
    shown = sorted(pool, key=lambda item: sha256_bytes(f"{seed}:{item.id}".encode()))[:shots]
    examples = "".join(f"{item.prompt}{item.right}\n\n" for item in shown)
    held = {item.id for item in pool}
    return [replace(item, examples=examples) for item in items if item.id not in held]
