"""`kiban.toml` as a typed programme. Each room owns the settings of its stages; here they are only assembled."""

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.rights import ANYWHERE
from kiban.artifacts.stage import Settings
from kiban.corpus.mixture import MixSettings
from kiban.corpus.sources import SourceSettings, all_terms
from kiban.corpus.stage import CorpusSettings
from kiban.corpus.withdrawals import withdrawals
from kiban.evaluation.stage import EvaluationSettings
from kiban.milestones.settings import Milestone, Partner
from kiban.model.presets import PRESETS, preset
from kiban.robotics.stage import RobotSettings
from kiban.tokenizer.stage import TokenizerSettings, TokensSettings
from kiban.training.settings import TrainingSettings, parse_tokens

PROGRAMME_FILE = "kiban.toml"


class ProgrammeTable(Settings):
    """`[programme]`. `residency` is the country in which its store lies: what may not be kept there is refused.
    `demo_keys` has the run make signing keys of its own, marked as such: for trying out."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = 0
    store: str = ".kiban"
    residency: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    demo_keys: bool = False


class ModelTable(Settings):
    """`[model]`: the one dial."""

    preset: str = "nano"


class LadderTable(Settings):
    """`[ladder]`: small models of the programme, each size with each number of tokens, for `kiban forecast`. `sizes`
    are presets or widths."""

    sizes: tuple[str, ...] = Field(min_length=2)
    tokens: tuple[str, ...] = Field(min_length=2)

    @field_validator("sizes")
    @classmethod
    def _known(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            preset(size)
        return sizes

    @field_validator("tokens")
    @classmethod
    def _counts(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        for text in tokens:
            parse_tokens(text)
        return tokens

    def rungs(self, training: TrainingSettings) -> list[TrainingSettings]:
        """The settings of each, the cheapest size first."""
        given = training.model_dump(exclude_unset=True)
        return [
            TrainingSettings(**(given | {"preset": size, "tokens": tokens}))
            for size in self.sizes
            for tokens in self.tokens
        ]


class Programme(Settings):
    """A programme: its tables as in `kiban.toml`, and `folder`, which their paths are relative to."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    folder: Path = Field(exclude=True)
    programme: ProgrammeTable
    partners: tuple[Partner, ...] = Field(default=(), alias="partner")
    sources: tuple[SourceSettings, ...] = Field(default=(), alias="source")
    corpus: CorpusSettings = CorpusSettings()
    mix: MixSettings | None = None
    tokenizer: TokenizerSettings = TokenizerSettings()
    tokens: TokensSettings = TokensSettings()
    model: ModelTable = ModelTable()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    robot: RobotSettings | None = None
    milestones: tuple[Milestone, ...] = Field(default=(), alias="milestone")
    ladder: LadderTable | None = None


def find_file(path: Path) -> Path:
    """The programme file that `path` means: itself, or the `kiban.toml` in that folder.

    Raises:
        KibanError: if there is none.
    """
    file = path / PROGRAMME_FILE if path.is_dir() else path
    if not file.is_file():
        raise KibanError(f"{file}: there is no such programme; `kiban init {path}` makes one")
    return file


def load(path: Path) -> Programme:
    """Reads and checks a programme (a folder, or its file).

    Raises:
        KibanError: naming the file, the line, what was found and what would do.
    """
    file = find_file(path)
    try:
        text = file.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except UnicodeDecodeError:
        raise KibanError(f"{file}: not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise KibanError(f"{file}: not TOML: {error}") from None
    _derive(tables)
    if (taken_back := withdrawals(file.parent)) and isinstance(tables.setdefault("corpus", {}), dict):
        listed = [*tables["corpus"].get("withdrawn", []), *(record.what for record in taken_back)]
        tables["corpus"]["withdrawn"] = sorted(set(listed))
    try:
        programme = Programme.model_validate({**tables, "folder": file.parent.absolute()})
    except ValidationError as error:
        raise KibanError(_for_people(file, text, error)) from None
    _check_names(file, programme)
    return programme


def _derive(tables: dict[str, Any]) -> None:
    """Fills in what follows from the one dial and the programme's seed, unless the file says otherwise."""
    name = tables.get("model", {}).get("preset", "nano")
    seed = tables.get("programme", {}).get("seed", 0)
    derived = {"training": {"preset": name, "seed": seed}}
    if name in PRESETS:
        derived["tokenizer"] = {"at_most": preset(name).vocab_size}
    if "robot" in tables:
        derived["robot"] = {"seed": seed}
    for table, values in derived.items():
        if isinstance(tables.setdefault(table, {}), dict):
            tables[table] = values | tables[table]


def resolve(written: str, folder: Path, what: str) -> Path:
    """A path as written in `kiban.toml`: relative to that file, `~` and `$NAME` expanded.

    Raises:
        KibanError: if it names an environment variable that is not set.
    """
    expanded = os.path.expandvars(written)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise KibanError(f"{what}: '{written}' needs the environment variable {unset[1]}, which is not set; set it")
    return folder / Path(expanded).expanduser()


def _check_names(file: Path, programme: Programme) -> None:
    partners = [partner.name for partner in programme.partners]
    for kind, names in (
        ("partner", partners),
        ("source", [source.name for source in programme.sources]),
        ("milestone", [milestone.id for milestone in programme.milestones]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise KibanError(f"{file}: two {kind}s are called '{min(twice)}'; give each its own name")
    data = [(f"source '{source.name}'", source.partner) for source in programme.sources]
    if programme.robot is not None and programme.robot.partner is not None:
        data.append(("[robot] dataset", programme.robot.partner))
    for what, partner in data:
        if partner not in partners:
            raise KibanError(
                f"{file}: {what}: there is no [[partner]] '{partner}' (partners: {', '.join(partners) or 'none'})"
            )
    here = programme.programme.residency
    for source in programme.sources if here else ():
        for rights in all_terms(source):
            if not rights.residency & {ANYWHERE, here}:
                raise KibanError(
                    f"{file}: source '{source.name}': may be kept in {', '.join(sorted(rights.residency))}, not in "
                    f"{here}, where [programme] residency says that the store lies; take it out"
                )


def _for_people(file: Path, text: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = [part for part in first["loc"] if part != "folder"]
    dotted = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    line = _line_of(text, where)
    place = f"{file}:{line}" if line else str(file)
    if first["type"] == "extra_forbidden":
        keys = _keys_at(where)
        close = difflib.get_close_matches(str(where[-1]), keys, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(sorted(keys))}"
        return f"{place}: {dotted}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{place}: {dotted}: missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {dotted}: found {first['input']!r}: {message[:1].lower()}{message[1:]}"


def _keys_at(where: list[Any]) -> list[str]:
    """The keys that are known in the table that holds the last part of `where`."""
    model: Any = Programme
    for part in where[:-1]:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", {})
        field = next((f for name, f in fields.items() if part in (name, f.alias)), None)
        if field is None:
            return []
        arguments = [a for a in _flatten(field.annotation) if hasattr(a, "model_fields")]
        model = arguments[0] if arguments else None
    fields = getattr(model, "model_fields", {})
    return [field.alias or name for name, field in fields.items() if name != "folder"]


def _flatten(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [found for argument in arguments for found in _flatten(argument)] if arguments else [annotation]


def _line_of(text: str, where: list[Any]) -> int | None:
    """The line of a key. `tomllib` keeps none, so the table's header and then the key are looked for."""
    tables = [part for part in where if isinstance(part, str)]
    if not tables:
        return None
    nth = next((part for part in where if isinstance(part, int)), 0)
    lines = text.splitlines()
    table = re.escape(tables[0])
    headers = [i for i, line in enumerate(lines) if re.match(rf"\s*\[+\s*{table}\s*(\.|\])", line)]
    if not headers:
        return next((i + 1 for i, line in enumerate(lines) if re.match(rf"\s*{table}\s*[.=]", line)), None)
    start = headers[min(nth, len(headers) - 1)]
    for key in reversed(tables[1:]):
        for i in range(start + 1, len(lines)):
            if re.match(r"\s*\[", lines[i]):
                break
            if re.search(rf"(^|[\s{{,.\"]){re.escape(key)}\"?\s*=", lines[i]):
                return i + 1
    return start + 1
