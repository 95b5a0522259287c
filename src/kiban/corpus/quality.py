"""Rules that a text must pass, as data: a recipe is a TOML file of rules, each a statistic with its bounds."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from kiban.artifacts.errors import KibanError

if TYPE_CHECKING:
    import numpy as np


class Rule(BaseModel):
    """A text is dropped for `reason` unless `at_least` <= its `statistic` <= `at_most`.

    A rule with `from_characters` judges only texts of that length or more, since shares of a short text say little;
    `registers` leaves out those it does not hold for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    statistic: str
    at_least: float = float("-inf")
    at_most: float = float("inf")
    from_characters: int = 0
    except_registers: tuple[str, ...] = ()


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...]


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
    """Raises KibanError if the file is not a recipe, naming the rule and the key."""
    from kiban.corpus.statistics import NAMES

    try:
        recipe = Recipe.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{file}: not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise KibanError(f"{file}: {where}: {first['msg']}") from None
    for number, rule in enumerate(recipe.rule, 1):
        if rule.statistic not in NAMES:
            raise KibanError(f"{file}: rule {number}: no statistic '{rule.statistic}'; there are {', '.join(NAMES)}")
    return recipe


def judge(recipe: Recipe, statistics: "np.ndarray", registers: list[str]) -> list[Verdict]:
    """The verdicts on the texts that break a rule, by row. `statistics` is N x len(NAMES)."""
    import numpy as np

    from kiban.corpus.statistics import NAMES

    characters = statistics[:, NAMES.index("characters")]
    standing = np.ones(len(statistics), bool)
    verdicts = []
    for rule in recipe.rule:
        values = statistics[:, NAMES.index(rule.statistic)]
        broken = standing & ((values < rule.at_least) | (values > rule.at_most))
        broken &= characters >= rule.from_characters
        if rule.except_registers:
            broken &= ~np.isin(np.array(registers, dtype=object), rule.except_registers)
        for row in np.flatnonzero(broken):
            value = float(values[row])
            bound = f"< {rule.at_least:g}" if value < rule.at_least else f"> {rule.at_most:g}"
            verdicts.append(Verdict(int(row), rule.reason, value, f"{rule.statistic} {value:.4g} {bound}"))
        standing &= ~broken
    return sorted(verdicts, key=lambda verdict: verdict.row)
