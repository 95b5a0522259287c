"""A recipe tried on samples of sources: what each rule drops, beside what it keeps, nearest to its bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kiban.artifacts.progress import Progress
from kiban.corpus.quality import Recipe, Rule
from kiban.corpus.sources import SourceSettings, bring, check_libraries
from kiban.corpus.stage import CorpusSettings

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Text:
    """A document, normalised, as the rules see it."""

    id: str
    source: str
    uri: str
    title: str
    register: str
    text: str


@dataclass(frozen=True)
class Sample:
    document: Text
    score: float


@dataclass(frozen=True)
class Found:
    """What a rule does: how many texts it is for, how many it breaks, how many of those no rule before it drops; and
    samples of these and of what the recipe keeps, the nearest to the bound first."""

    rule: Rule
    judged: int
    breaks: int
    first: int
    characters: int
    dropped: list[Sample]
    kept: list[Sample]


@dataclass(frozen=True)
class Inspection:
    """`hosts`: how many texts go for their host. Everything is counted over the samples that were read."""

    documents: int
    characters: int
    kept: int
    hosts: int
    rules: list[Found]


def inspect(
    sources: Sequence[SourceSettings],
    settings: CorpusSettings,
    recipe: Recipe,
    megabytes: float,
    samples: int,
    progress: Progress,
) -> Inspection:
    """Judges about so many megabytes of each source, from its beginning; nothing is written.

    Raises:
        KibanError: for a source that cannot be read.
    """
    import numpy as np

    from kiban.corpus.quality import breaks, judge, judged

    texts, statistics = _read(sources, settings, recipe, megabytes, progress)
    registers = [text.register for text in texts]
    lengths = statistics["characters"]
    verdicts = judge(recipe, statistics, registers, [text.uri for text in texts])
    kept = np.ones(len(texts), bool)
    kept[[verdict.row for verdict in verdicts]] = False
    standing = np.ones(len(texts), bool)
    by_host = [v.row for v in verdicts if v.reason in ("other_domain", "blocked_host", "malformed_address")]
    standing[by_host] = False
    rules = []
    for rule in recipe.rule:
        values, broken = statistics[rule.statistic], breaks(rule, statistics, registers)
        first, near = broken & standing, judged(rule, statistics, registers) & kept
        rules.append(
            Found(
                rule,
                int(judged(rule, statistics, registers).sum()),
                int(broken.sum()),
                int(first.sum()),
                int(lengths[first].sum()),
                _nearest(texts, values, rule, first, samples),
                _nearest(texts, values, rule, near, samples),
            )
        )
        standing &= ~broken
    return Inspection(len(texts), int(lengths.sum()), int(kept.sum()), len(by_host), rules)


def _nearest(texts: Sequence[Text], values: "np.ndarray", rule: Rule, which: "np.ndarray", count: int) -> list[Sample]:
    """Of these texts those whose statistic is nearest to a bound of the rule; of equals, by id."""
    import numpy as np

    bounds = [b for b in (rule.at_least, rule.at_most, rule.below) if b is not None and np.isfinite(b)]
    distance = np.min([np.abs(values - bound) for bound in bounds], axis=0)
    rows = sorted(np.flatnonzero(which).tolist(), key=lambda row: (distance[row], texts[row].id))
    return [Sample(texts[row], float(values[row])) for row in rows[:count]]


def _read(
    sources: Sequence[SourceSettings], settings: CorpusSettings, recipe: Recipe, megabytes: float, progress: Progress
) -> "tuple[list[Text], dict[str, np.ndarray]]":
    """Texts of the sources, and their statistics by name."""
    import numpy as np
    import pyarrow as pa

    from kiban.corpus import curate
    from kiban.corpus.build import input_of
    from kiban.corpus.normalise import normalise
    from kiban.corpus.quality import figures

    texts: list[Text] = []
    columns: list[dict[str, np.ndarray]] = []
    for given in sources:
        source = given.model_copy(update={"location": settings.locations.get(given.name)})
        check_libraries(source)
        bring(source, progress)
        job = input_of(source, settings, recipe, Path(), 0)
        size = 0
        for piece in job.pieces():
            documents, _ = curate.read(job.job, piece)
            raw = pa.array([document.text for _, document, _ in documents], pa.string())
            normal = normalise(raw, keep_letters=source.format == "aozora")
            columns.append(figures(recipe, normal))
            for (identity, document, _), text in zip(documents, normal.to_pylist(), strict=True):
                register = document.register or source.register_
                texts.append(Text(identity, source.name, document.uri, document.title, register, text))
            size += sum(len(member.data) for member in piece.members)
            if size >= megabytes * 1e6:
                break
    names = columns[0] if columns else {}
    return texts, {name: np.concatenate([column[name] for column in columns]) for name in names}
