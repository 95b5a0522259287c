"""The stage `corpus` (clean text from all sources), and its settings."""

import datetime
import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import USES, Rights, meet
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact
from kiban.corpus.engines import EngineName
from kiban.corpus.selection import selection
from kiban.corpus.sources import SourceSettings, all_terms, bring, check_libraries


class CorpusSettings(Settings):
    """`[corpus]`: how sources become clean text.

    `recipe` is the name of rules that come with Kiban, or a file of your own; `hold_back` the share of each source
    that is kept for measuring; `near_duplicate` the Jaccard similarity of character 5-grams from which on the shorter
    of two documents goes, found by `bands` bands of a signature of `permutations` entries of `signature_bits`. Lines of
    `repeated_paragraphs` characters or more, and spans of about `repeated_spans` characters or more, are cut out of all
    documents but the first that has them; without these settings nothing is cut. `mask_names` masks names and addresses
    beside numbers (`kiban[names]`). `evaluation_data` is a folder of evaluation sets that no document may hold, beside
    our own. A document that does not grant all of `needs`, in a source of which other documents do, stays out.
    `withdrawn` lists what must stay out, as `source:NAME`, `document:ID`, `uri:ADDRESS` or `host:NAME`. `engine` says
    where the work runs (`serial`, `process`, `ray`), `workers` on how many cores; all give the same corpus."""

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
    needs: tuple[str, ...] = ("pretrain",)
    withdrawn: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()  # `source.number` of the overrides whose term is over: follows from the day
    workers: int = Field(default=1, ge=1, exclude=True)
    engine: EngineName | None = Field(default=None, exclude=True)  # None: `process` where there are workers
    locations: dict[str, str] = Field(default_factory=dict, exclude=True)  # source name -> absolute path
    folder: str = Field(default=".", exclude=True)  # what paths in this table are relative to

    @model_validator(mode="after")
    def _whole_bands(self) -> "CorpusSettings":
        if self.permutations % self.bands:
            raise ValueError(f"permutations ({self.permutations}) must be a multiple of bands ({self.bands})")
        if self.engine == "serial" and self.workers > 1:
            raise ValueError(f"engine 'serial' has one worker, not {self.workers}; take `engine` or `workers` out")
        if unknown := sorted(set(self.needs) - set(USES)):
            raise ValueError(f"needs: use '{unknown[0]}' is not known; uses are {', '.join(USES)}")
        selection(self.withdrawn)
        return self


def expired(sources: Sequence[SourceSettings], day: datetime.date) -> tuple[str, ...]:
    """`CorpusSettings.expired` on that day: an address must not depend on the day in any other way."""
    return tuple(
        f"{source.name}.{number}"
        for source in sources
        for number, override in enumerate(source.overrides)
        if override.expires and override.expires < day
    )


def granted(source: SourceSettings, settings: CorpusSettings) -> list[bool]:
    """For the source's terms and those of each override: whether documents under them come into the corpus. Where
    none grants what is needed, none is left out for it: the stage that needs it refuses then, and names the source."""
    over = [False, *(f"{source.name}.{number}" in settings.expired for number in range(len(source.overrides)))]
    grants = [
        not late and not terms.constraints and terms.uses.issuperset(settings.needs)
        for terms, late in zip(all_terms(source), over, strict=True)
    ]
    return grants if any(grants) else [True] * len(grants)


def _rights(settings: CorpusSettings, sources: Sequence[Settings]) -> Rights:
    """The meet of the terms of all documents that can be in the corpus."""
    withdrawn = selection(settings.withdrawn).sources
    return meet(
        terms
        for source in sources
        if isinstance(source, SourceSettings) and source.name not in withdrawn
        for terms, comes_in in zip(all_terms(source), granted(source, settings), strict=True)
        if comes_in
    )


def _recipe_of(settings: CorpusSettings) -> Path:
    from kiban.corpus.quality import recipe_file

    return recipe_file(settings.recipe, Path(settings.folder))


def _recipe_files(settings: CorpusSettings) -> list[Path]:
    from kiban.corpus.quality import lists, load_recipe

    recipe = _recipe_of(settings)
    return [recipe, *lists(load_recipe(recipe))]


def evaluation_folder(settings: CorpusSettings) -> Path | None:
    """Raises KibanError if it is not there, or the path needs an environment variable that is not set."""
    written = settings.evaluation_data
    if written is None:
        return None
    expanded = os.path.expandvars(written)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise KibanError(f"[corpus] evaluation_data '{written}' needs the environment variable {unset[1]}; set it")
    folder = Path(settings.folder) / Path(expanded).expanduser()
    if not folder.is_dir():
        raise KibanError(f"[corpus] evaluation_data: {folder} is no folder; correct the path")
    return folder


def _evaluation_files(settings: CorpusSettings) -> list[Path]:
    from kiban.corpus.evaluation_sets import evaluation_sets

    return [file for each in evaluation_sets(evaluation_folder(settings)) for file in each.files]


@stage(
    "corpus",
    version=3,
    inputs=("sources",),
    external=lambda settings: [*_recipe_files(settings), *_evaluation_files(settings)],
    rights_left=_rights,
)
def corpus(settings: CorpusSettings, sources: list[Artifact], out: Path, progress: Progress) -> Outcome:
    """Makes the corpus: shards/part-*.parquet, held_back.parquet, ledger.parquet (a row for every document that is in
    neither), masks.parquet (how much of what was masked in which document), cuts.parquet (how much was cut out of
    which), contaminated.parquet (which document held what of which evaluation set), decontamination.json (how much was
    found of each set), summary.json."""
    import shutil

    from kiban.corpus.engines import WorkerLost

    try:
        return _corpus(settings, sources, out, progress)
    except WorkerLost:
        raise
    except KibanError:  # settings or sources must change, and with them the address: what is there is of no more use
        shutil.rmtree(out / ".work", ignore_errors=True)
        raise


def _corpus(settings: CorpusSettings, sources: list[Artifact], out: Path, progress: Progress) -> Outcome:
    from kiban.corpus import build, curate, decontamination, writing
    from kiban.corpus.engines import engine
    from kiban.corpus.evaluation_sets import evaluation_sets
    from kiban.corpus.names import tokenizer
    from kiban.corpus.quality import load_recipe

    work = out / ".work"
    recipe = load_recipe(_recipe_of(settings))
    if settings.mask_names:
        tokenizer()
    sets = {each.name: each.items() for each in evaluation_sets(evaluation_folder(settings))}
    short = {each.name for each in evaluation_sets(None)}
    grams = decontamination.grams_of(
        chain.from_iterable(item for name, items in sets.items() if name not in short for item in items),
        short=set(chain.from_iterable(item for name in short for item in sets[name])),
    )
    curate.save_grams(grams, work / "grams.npz")
    inputs = []
    for artifact in sources:
        origin = SourceSettings.model_validate(artifact.settings)
        origin = origin.model_copy(update={"location": settings.locations.get(origin.name)})
        check_libraries(origin)
        bring(origin, progress)
        inputs.append(build.input_of(origin, settings, recipe, work, int(artifact.metrics["source.bytes"].value)))
    with engine(settings.engine or ("process" if settings.workers > 1 else "serial"), settings.workers) as workers:
        pieces = build.read_sources(inputs, work, workers, progress)
        decision = build.decide(pieces, inputs, settings, work)
        writing.write_corpus(pieces, decision, work, out, workers, progress)
    writing.write_contamination(pieces, sets, grams, out)
    return Outcome(metrics=_metrics(writing.summarise(pieces, inputs, out)))


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
