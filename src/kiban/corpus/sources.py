"""The stage `source`: an archive under its terms, and the settings of it."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import ANYWHERE, Rights, meet, obligations_of
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.corpus.addresses import check_url, is_url
from kiban.corpus.selection import Selection, selection

if TYPE_CHECKING:
    from kiban.corpus.readers.member import Extraction

DEMO = "kiban:demo"

FormatName = Literal[
    "aozora",
    "cirrus",
    "demo",
    "dialogue_json",
    "dialogue_tsv",
    "docx",
    "epub",
    "html",
    "jsonl",
    "knp_org",
    "law_xml",
    "markdown",
    "mediawiki",
    "parquet",
    "pdf",
    "plain",
    "po",
    "squad_json",
    "subtitles",
    "warc",
]
EXTRACTED = ("warc", "pdf")


class OverrideSettings(Settings):
    """`[[source.override]]`: other terms for some documents of a source: those with one of these ids (`documents`), one
    of these addresses (`uris`, `*` for any characters) or on one of these `hosts`. What is not given is the source's.
    """

    documents: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    licence: str | None = None
    uses: tuple[str, ...] | None = None
    residency: tuple[str, ...] | None = None
    expires: datetime.date | None = None
    obligations: tuple[str, ...] | None = None
    constraints: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _means_something(self) -> "OverrideSettings":
        if not (self.documents or self.uris or self.hosts):
            raise ValueError("an override means no document; give `documents`, `uris` or `hosts`")
        if not self.model_fields_set - {"documents", "uris", "hosts"}:
            raise ValueError("an override that changes no term; give a licence, uses, or what is different")
        return self

    def meant(self) -> Selection:
        kinds = (("document", self.documents), ("uri", self.uris), ("host", self.hosts))
        return selection(f"{kind}:{value}" for kind, values in kinds for value in values)


class SourceSettings(Settings):
    """`[[source]]`: where data lies, in which format, and under which terms it came.

    `path` is a file, a folder or an https address; `sha256` is that of the file, and an address needs it. `encoding`
    is that of the format unless it is given; `detect` finds it. `extract` takes the content out of web pages,
    `extract_seconds` is the most that one of them, or a PDF, may take; `columns` says what the fields of a document are
    called in Parquet. `obligations` are owed beside those of the licence; `constraints` are conditions of use, and
    deny every use but for those that stand in `met` too. `attribution` is how the source wants to be named, `notice` a
    file with the text that its licence wants to be passed on. `override`: see there.
    `megabytes` (4 unless given) and `seed` are for the demo text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    path: str
    format: FormatName
    partner: str
    licence: str
    uses: tuple[str, ...]
    residency: tuple[str, ...] = (ANYWHERE,)
    expires: datetime.date | None = None
    obligations: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    met: tuple[str, ...] = ()
    attribution: str | None = None
    notice: str | None = None
    overrides: tuple[OverrideSettings, ...] = Field(default=(), alias="override")
    register_: str = Field(default="", alias="register")
    encoding: str | None = None
    megabytes: float | None = Field(default=None, gt=0, le=64)
    seed: int | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    extract: Literal["resiliparse", "trafilatura"] | None = None
    extract_seconds: float | None = Field(default=None, gt=0)
    columns: dict[Literal["text", "uri", "title", "author", "date", "register"], str] | None = None
    # `path` made absolute, or where the file at an address is kept; None for the demo text
    location: str | None = Field(default=None, exclude=True)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str | None) -> str | None:
        try:
            "".encode("utf-8" if encoding in (None, "detect") else encoding)
        except LookupError:
            raise ValueError(f"encoding '{encoding}' is not known; such as detect, utf-8, cp932, euc_jp") from None
        return encoding

    @model_validator(mode="after")
    def _terms_are_known(self) -> "SourceSettings":
        all_terms(self)
        asked = {*self.constraints, *(condition for own in self.overrides for condition in own.constraints or ())}
        if unasked := sorted(set(self.met) - asked):
            raise ValueError(f"met: '{unasked[0]}' is none of the `constraints`; take it out, or correct it")
        if (self.path == DEMO) != (self.format == "demo"):
            raise ValueError(f"path '{DEMO}' and format 'demo' go together")
        for key in ("megabytes", "seed"):
            if getattr(self, key) is not None and self.format != "demo":
                raise ValueError(f"'{key}' is for the demo text alone; take it out")
        for key, formats in (("extract", ("warc",)), ("extract_seconds", EXTRACTED), ("columns", ("parquet",))):
            if getattr(self, key) is not None and self.format not in formats:
                raise ValueError(f"'{key}' is for the format {' or '.join(formats)}; take it out")
        if is_url(self.path):
            check_url(self.path)
            if self.sha256 is None:
                raise ValueError("an address needs the `sha256` of the file that is there, so that no other is taken")
        return self

    def place(self) -> Path | None:
        """Where the data lies; None for the demo text."""
        return None if self.format == "demo" else Path(self.location or self.path)

    def extraction(self) -> "Extraction":
        from kiban.corpus.readers.member import Extraction

        columns = tuple(sorted((str(field), column) for field, column in (self.columns or {}).items()))
        return Extraction(self.extract or "resiliparse", self.extract_seconds or 10.0, columns)


def check_libraries(settings: SourceSettings) -> None:
    """Raises KibanError, naming the extra, if a package that the source's format needs is not installed."""
    from importlib.util import find_spec

    from kiban.corpus.readers import FORMATS

    needed = settings.extract if settings.extract == "trafilatura" else FORMATS[settings.format].needs
    if needed and find_spec(needed) is None:
        raise KibanError(
            f"source '{settings.name}': format '{settings.format}' needs the package {needed}; "
            "install it with `pip install 'kiban[corpus]'`"
        )


def all_terms(source: SourceSettings) -> list[Rights]:
    """The terms of the source, and those of each override. A constraint that is met is a duty from then on."""
    found = []
    everything: list[SourceSettings | OverrideSettings] = [source, *source.overrides]
    for own in everything:
        constraints = frozenset(source.constraints if own.constraints is None else own.constraints)
        met = constraints & frozenset(source.met)
        given = source.obligations if own.obligations is None else own.obligations
        duties = obligations_of(own.licence or source.licence, source.name) | frozenset(given)
        found.append(
            Rights(
                uses=frozenset(source.uses if own.uses is None else own.uses),
                residency=frozenset(source.residency if own.residency is None else own.residency),
                expires=own.expires or source.expires,
                obligations=duties | {f"keep-to:{condition}" for condition in met},
                constraints=constraints - met,
            )
        )
    return found


def terms(settings: SourceSettings) -> Rights:
    """What all of the source may be used for, where, until when, and what is owed for it."""
    return meet(all_terms(settings))


def _files_of(settings: SourceSettings) -> list[Path]:
    check_libraries(settings)
    place = settings.place()
    if is_url(settings.path):
        return []  # `sha256` is the digest: nothing is fetched before it is needed
    if place is None:
        folder = Path(__file__).parent / "demo_text"
        return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    from kiban.corpus.archives import files
    from kiban.corpus.readers import FORMATS

    return files(place, FORMATS[settings.format].endings, settings.name)


def bring(settings: SourceSettings, progress: Progress) -> None:
    """Fetches the file of a source at an address, unless it is here."""
    if is_url(settings.path):
        from kiban.corpus.download import fetch

        place = settings.place()
        assert place is not None and settings.sha256 is not None
        fetch(settings.path, settings.sha256, place, settings.name, progress)


@stage("source", external=_files_of, rights=terms)
def source(settings: SourceSettings, out: Path, progress: Progress) -> Outcome:
    """Records what a source is made of: source.json, with the sha256 and size of each file. The data stay where they
    are."""
    from kiban.artifacts.files import write_json
    from kiban.artifacts.hashing import sha256_file

    place = settings.place() or Path(__file__).parent
    if is_url(settings.path):
        bring(settings, progress)
        paths = [place]
    else:
        paths = _files_of(settings)
    records = []
    total = sum(path.stat().st_size for path in paths)
    with progress.task(f"digests of {settings.name}", total / 1e6, "MB") as task:
        for path in paths:
            name = path.relative_to(place).as_posix() if place.is_dir() else path.name
            records.append({"path": name, "sha256": sha256_file(path), "bytes": path.stat().st_size})
            task.advance(path.stat().st_size / 1e6)
    if settings.sha256 and [record["sha256"] for record in records] != [settings.sha256]:
        found = records[0]["sha256"] if len(records) == 1 else f"{len(records)} files"
        raise KibanError(
            f"source '{settings.name}': {place} is not the file with the sha256 {settings.sha256} (found: {found}); "
            "fetch it again, or correct `sha256`"
        )
    write_json(out / "source.json", {"name": settings.name, "format": settings.format, "files": records})
    return Outcome(
        metrics={
            "source.files": Metric(value=len(records), unit="files"),
            "source.bytes": Metric(value=total, unit="bytes"),
        }
    )
