"""The stages `source` (an archive under its terms) and `corpus` (clean text from all sources), and their settings."""

import datetime
import os
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import ANYWHERE, Rights, obligations_of
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact
from kiban.corpus.addresses import check_url, is_url

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


class SourceSettings(Settings):
    """`[[source]]`: where data lies, in which format, and under which terms it came.

    `path` is a file, a folder or an https address; `sha256` is that of the file, and an address needs it. `encoding`
    is that of the format unless it is given; `detect` finds it. `extract` takes the content out of web pages,
    `extract_seconds` is the most that one of them, or a PDF, may take; `columns` says what the fields of a document are
    called in Parquet. `obligations` are owed beside those of the licence.
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
        terms(self)
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


def terms(settings: SourceSettings) -> Rights:
    """What the source may be used for, where, until when, and what is owed for it."""
    return Rights(
        uses=frozenset(settings.uses),
        residency=frozenset(settings.residency),
        expires=settings.expires,
        obligations=obligations_of(settings.licence, settings.name) | frozenset(settings.obligations),
    )


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


class CorpusSettings(Settings):
    """`[corpus]`: how sources become clean text.

    `recipe` is the name of rules that come with Kiban, or a file of your own; `hold_back` the share of each source
    that is kept for measuring; `near_duplicate` the Jaccard similarity of character 5-grams from which on the shorter
    of two documents goes, found by `bands` bands of a signature of `permutations` entries of `signature_bits`. Lines of
    `repeated_paragraphs` characters or more, and spans of about `repeated_spans` characters or more, are cut out of all
    documents but the first that has them; without these settings nothing is cut. `mask_names` masks names and addresses
    beside numbers (`kiban[names]`). `evaluation_data` is a folder of evaluation sets that no document may hold, beside
    our own. `withdrawn` lists ids or uris of documents, or names of sources, that must stay out. `workers` is a number
    of processes; any number gives the same corpus."""

    recipe: str = "kiban"
    hold_back: float = Field(default=0.01, ge=0, lt=1)
    near_duplicate: float = Field(default=0.8, gt=0.5, le=1)
    permutations: int = Field(default=128, ge=16, le=1024)
    bands: int = Field(default=32, ge=1)
    signature_bits: Literal[32, 64] = 32
    repeated_paragraphs: int | None = Field(default=None, ge=5)
    repeated_spans: int | None = Field(default=None, ge=20)
    mask_names: bool = False
    evaluation_data: str | None = None
    withdrawn: tuple[str, ...] = ()
    workers: int = Field(default=1, ge=1, exclude=True)
    locations: dict[str, str] = Field(default_factory=dict, exclude=True)  # source name -> absolute path
    folder: str = Field(default=".", exclude=True)  # what paths in this table are relative to

    @model_validator(mode="after")
    def _whole_bands(self) -> "CorpusSettings":
        if self.permutations % self.bands:
            raise ValueError(f"permutations ({self.permutations}) must be a multiple of bands ({self.bands})")
        return self


def _recipe_of(settings: CorpusSettings) -> Path:
    from kiban.corpus.quality import recipe_file

    return recipe_file(settings.recipe, Path(settings.folder))


def _recipe_files(settings: CorpusSettings) -> list[Path]:
    from kiban.corpus.quality import lists, load_recipe

    recipe = _recipe_of(settings)
    return [recipe, *lists(load_recipe(recipe))]


def _evaluation_files(settings: CorpusSettings) -> list[Path]:
    from kiban.corpus.evaluation_sets import evaluation_files

    written = settings.evaluation_data
    if written is None:
        return evaluation_files(None)
    expanded = os.path.expandvars(written)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise KibanError(f"[corpus] evaluation_data '{written}' needs the environment variable {unset[1]}; set it")
    return evaluation_files(Path(settings.folder) / Path(expanded).expanduser())


@stage(
    "corpus",
    version=2,
    inputs=("sources",),
    external=lambda settings: [*_recipe_files(settings), *_evaluation_files(settings)],
)
def corpus(settings: CorpusSettings, sources: list[Artifact], out: Path, progress: Progress) -> Outcome:
    """Makes the corpus: shards/part-*.parquet, held_back.parquet, ledger.parquet (a row for every document that is in
    neither), masks.parquet (how much of what was masked in which document), cuts.parquet (how much was cut out of
    which), summary.json."""
    import shutil
    from concurrent.futures.process import BrokenProcessPool

    try:
        return _corpus(settings, sources, out, progress)
    except BrokenProcessPool:
        raise KibanError(
            f"[corpus]: one of {settings.workers} worker processes was ended from outside, perhaps for want of memory; "
            "run again with fewer `workers`: finished pieces are kept"
        ) from None
    except KibanError:  # settings or sources must change, and with them the address: what is there is of no more use
        shutil.rmtree(out / ".work", ignore_errors=True)
        raise


def _corpus(settings: CorpusSettings, sources: list[Artifact], out: Path, progress: Progress) -> Outcome:
    from kiban.corpus import build, curate
    from kiban.corpus.decontamination import grams_of
    from kiban.corpus.evaluation_sets import evaluation_files, texts_of
    from kiban.corpus.names import tokenizer
    from kiban.corpus.quality import load_recipe

    work = out / ".work"
    recipe = load_recipe(_recipe_of(settings))
    if settings.mask_names:
        tokenizer()
    shipped = evaluation_files(None)
    given = [file for file in _evaluation_files(settings) if file not in shipped]
    grams = grams_of(chain(*map(texts_of, given)), short=list(chain(*map(texts_of, shipped))))
    curate.save_grams(grams, work / "grams.npz")
    inputs = []
    for artifact in sources:
        origin = SourceSettings.model_validate(artifact.settings)
        origin = origin.model_copy(update={"location": settings.locations.get(origin.name)})
        check_libraries(origin)
        bring(origin, progress)
        inputs.append(build.input_of(origin, settings, recipe, work, int(artifact.metrics["source.bytes"].value)))
    pieces = build.read_sources(inputs, work, settings.workers, progress)
    decision = build.decide(pieces, inputs, settings)
    build.write_corpus(pieces, decision, out, progress)
    return Outcome(metrics=_metrics(build.summarise(pieces, inputs, out)))


def _metrics(summaries: dict[str, dict[str, Any]]) -> dict[str, Metric]:
    totals: dict[str, int] = {}
    for summary in summaries.values():
        for name in ("documents_in", "documents_kept", "documents_held_back", "characters_in", "characters_kept"):
            totals[name] = totals.get(name, 0) + summary[name]
        for group in ("dropped", "masked"):
            for name, number in summary[group].items():
                totals[f"{group}.{name}"] = totals.get(f"{group}.{name}", 0) + number
    units = {"characters": "characters", "masked": "places"}
    return {
        f"corpus.{name}": Metric(value=number, unit=units.get(re.split("[._]", name)[0], "documents"))
        for name, number in sorted(totals.items())
    }
