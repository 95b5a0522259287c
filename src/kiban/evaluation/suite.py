"""A suite is a file of data: what is asked, how it is scored, where the items come from. See `suites/*.toml`."""

import csv
import io
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kiban.artifacts.errors import KibanError

HERE = Path(__file__).parent
SUITES = HERE / "suites"


class Suite(BaseModel):
    """`rule` is how items are scored:

    - `pairs`: the good sentence of each pair must be likelier than the bad one;
    - `choice`: of the choices, the right one's log-likelihood after the prompt must be the highest;
    - `text`: bits per character of held-back documents.

    `file` is below `data/` here, or below the folder of evaluation sets where `external` is true.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    measures: str
    rule: Literal["pairs", "choice", "text"]
    licence: str
    source: str
    chance: float | None = None
    file: str | None = None
    external: bool = False
    format: Literal["pairs", "choice", "jcommonsenseqa", "keico"] | None = None
    prompt: str = ""

    def path(self, folder: Path | None) -> Path | None:
        """Where its items lie; None if it needs a folder of evaluation sets that is not given."""
        if self.file is None:
            return None
        if self.external:
            return folder / self.file if folder else None
        return HERE / "data" / self.file


@dataclass(frozen=True)
class Item:
    """Something to score: of `choices` after `prompt`, number `answer` is right. `by` groups items in the report."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    by: str = field(default="")


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


def items(suite: Suite, path: Path) -> list[Item]:
    """The suite's items, in the file's order.

    Raises:
        KibanError: if the file is missing, or an item lacks something, is there twice, or is not of the format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KibanError(f"suite '{suite.name}': {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KibanError(f"suite '{suite.name}': {path} is not UTF-8; restore the publisher's file") from None
    readers = {"pairs": _pairs, "choice": _choice, "jcommonsenseqa": _jcommonsenseqa, "keico": _keico}
    reader = readers[suite.format or "pairs"]
    try:
        found = list(reader(suite, text))
    except (KeyError, ValueError, TypeError) as error:
        kind = type(error).__name__
        raise KibanError(f"suite '{suite.name}': {path} is not of its format ({kind}: {error})") from None
    ids = [item.id for item in found]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise KibanError(f"suite '{suite.name}': {path} holds the item {twice} twice; restore the file")
    if not found:
        raise KibanError(f"suite '{suite.name}': {path} holds no item")
    return found


def _lines(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines() if line.strip())


def _pairs(suite: Suite, text: str) -> Iterator[Item]:
    for row in _lines(text):
        yield Item(row["id"], row.get("context", ""), (row["good"], row["bad"]), 0, row["phenomenon"])


def _choice(suite: Suite, text: str) -> Iterator[Item]:
    for row in _lines(text):
        choices, answer = tuple(row["choices"]), row["answer"]
        if not 0 <= answer < len(choices):
            raise ValueError(f"item {row['id']}: answer {answer} is none of its {len(choices)} choices")
        yield Item(row["id"], suite.prompt.format(question=row["question"]), choices, answer, row["phenomenon"])


def _jcommonsenseqa(suite: Suite, text: str) -> Iterator[Item]:
    for row in _lines(text):
        choices = tuple(row[f"choice{i}"] for i in range(5))
        yield Item(str(row["q_id"]), suite.prompt.format(question=row["question"]), choices, int(row["label"]))


KEICO_LEVELS = ("1", "2", "3", "4")


def _keico(suite: Suite, text: str) -> Iterator[Item]:
    """Which of four levels of honorifics a sentence has, after five examples: the first of each level in the file's
    order, and the first that is left. The examples are no items."""
    rows = list(enumerate(csv.DictReader(io.StringIO(text))))
    shown = [next(row for row in rows if row[1]["Level"] == level) for level in KEICO_LEVELS]
    shown.append(next(row for row in rows if row not in shown))
    shown.sort(key=lambda row: row[0])
    examples = "".join(suite.prompt.format(sentence=row["本文"]) + row["Level"] + "\n\n" for _, row in shown)
    for number, row in rows:
        if (number, row) in shown:
            continue
        label = KEICO_LEVELS.index(row["Level"])
        prompt = examples + suite.prompt.format(sentence=row["本文"])
        yield Item(str(number), prompt, KEICO_LEVELS, label, f"level {row['Level']}")
