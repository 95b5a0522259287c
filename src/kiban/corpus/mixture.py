"""The stage `mixture`: how much of what is read how often. Documents are taken whole, some of them several times.

A cell is what shares source, register and language. Its epochs follow from the settings alone, and from how large the
cells are, so the plan is known before anything is written."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, model_validator

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


class MixSettings(Settings):
    """`[mix]`: groups `by` source, register or language get shares of the characters read: `shares` gives them, or they
    follow from their sizes to the power 1 / `temperature` (1: as they are; the larger, the more equal; arXiv
    1907.05019). `epochs` is how often a source is read before that. `characters` is what is read in all; without it as
    much as the sources have, by their epochs. No group is read more than `most_epochs` times: from four on, text that
    is read again gives less and less (arXiv 2305.16264). `seed` chooses which documents are read once more where epochs
    are no whole number."""

    by: Literal["source", "register", "language"] = "source"
    temperature: float | None = Field(default=None, ge=1)
    shares: dict[str, float] | None = None
    epochs: dict[str, float] = Field(default_factory=dict)
    characters: int | None = Field(default=None, gt=0)
    most_epochs: float = Field(default=4.0, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> "MixSettings":
        if self.shares is not None and self.temperature is not None:
            raise ValueError("`shares` and `temperature` both say how much of each group is read; take one out")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"the `shares` are {sum(self.shares.values()):g} together; they must be 1")
        if negative := [name for name, value in {**self.epochs, **(self.shares or {})}.items() if value < 0]:
            raise ValueError(f"'{negative[0]}' is less than nothing; give 0 to leave it out")
        return self


class Cell(NamedTuple):
    source: str
    register: str
    language: str


@dataclass(frozen=True)
class Size:
    documents: int
    characters: int


@dataclass(frozen=True)
class Row:
    """What the plan says of a cell: how large it is, how often it is read, and what share of all that is."""

    source: str
    register: str
    language: str
    documents: int
    characters: int
    epochs: float
    share: float


def sizes(corpus: Path) -> dict[Cell, Size]:
    """The cells of the corpus, or mixture, in a folder. Reads all of its text once."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: dict[Cell, Size] = {}
    for path in _shards(corpus):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[*Cell._fields, "text"]):
                columns = {name: batch[name] for name in Cell._fields} | {"n": pc.utf8_length(batch["text"])}
                cells = pa.table(columns).group_by(list(Cell._fields)).aggregate([("n", "sum"), ("n", "count")])
                for row in cells.to_pylist():
                    cell = Cell(*(row[name] for name in Cell._fields))
                    before = found.get(cell, Size(0, 0))
                    found[cell] = Size(before.documents + row["n_count"], before.characters + row["n_sum"])
    return dict(sorted(found.items()))


def plan(found: Mapping[Cell, Size], settings: MixSettings) -> list[Row]:
    """How often each cell is read.

    Raises:
        KibanError: for a group or source that is not there or has no share, or where a share needs more epochs than
            there may be.
    """
    sources = {cell.source for cell in found}
    if unknown := sorted(set(settings.epochs) - sources):
        raise KibanError(
            f"[mix] epochs: the corpus has no source '{unknown[0]}'; there are {', '.join(sorted(sources))}"
        )
    available = {cell: size.characters * settings.epochs.get(cell.source, 1.0) for cell, size in found.items()}
    groups: dict[str, float] = defaultdict(float)
    for cell, characters in available.items():
        groups[getattr(cell, settings.by)] += characters
    total = float(settings.characters or sum(groups.values()))
    most = {group: _most(group, found, settings) for group in groups}
    read = _by_shares(groups, most, total, settings) if settings.shares else _by_size(groups, most, total, settings)
    whole = sum(read.values())
    if not whole:
        raise KibanError("[mix]: nothing is read; give a source more than 0 epochs")
    rows = []
    for cell, size in found.items():
        group = getattr(cell, settings.by)
        times = settings.epochs.get(cell.source, 1.0) * (read[group] / groups[group] if groups[group] else 0.0)
        rows.append(Row(*cell, size.documents, size.characters, times, times * size.characters / whole))
    return rows


def _most(group: str, found: Mapping[Cell, Size], settings: MixSettings) -> float:
    """The most characters that may be read of a group: its source with the most epochs is read `most_epochs` times."""
    cells = [cell for cell in found if getattr(cell, settings.by) == group]
    epochs = {cell: settings.epochs.get(cell.source, 1.0) for cell in cells}
    largest = max(epochs.values())
    if not largest:
        return 0.0
    return sum(found[cell].characters * epochs[cell] for cell in cells) * settings.most_epochs / largest


def _by_shares(
    groups: Mapping[str, float], most: Mapping[str, float], total: float, settings: MixSettings
) -> dict[str, float]:
    shares = settings.shares or {}
    if unknown := sorted(set(shares) - set(groups)):
        raise KibanError(
            f"[mix] shares: the corpus has no {settings.by} '{unknown[0]}'; there are {', '.join(sorted(groups))}"
        )
    if left := sorted(set(groups) - set(shares)):
        raise KibanError(f"[mix] shares: {settings.by} '{left[0]}' has none; give it one, or 0 to leave it out")
    for group, share in shares.items():
        if share * total > most[group] * (1 + 1e-9):
            enough = int(min(most[name] / part for name, part in shares.items() if part))
            raise KibanError(
                f"[mix] shares: for its share '{group}' would be read {share * total / most[group]:.1f} times as often "
                f"as most_epochs ({settings.most_epochs:g}) allows; lower the share, or set characters = {enough}"
                if most[group]
                else f"[mix] shares: '{group}' has a share, and epochs of 0; take one out"
            )
    return {group: shares[group] * total for group in groups}


def _by_size(
    groups: Mapping[str, float], most: Mapping[str, float], total: float, settings: MixSettings
) -> dict[str, float]:
    """Shares by size; what a group can't give within its epochs, the others give."""
    weights = {group: size ** (1 / (settings.temperature or 1.0)) for group, size in groups.items() if size}
    read = {group: 0.0 for group in groups}
    if total > sum(most.values()) * (1 + 1e-9):
        raise KibanError(
            f"[mix] characters: {total:.0f} are more than the {sum(most.values()):.0f} that {settings.most_epochs:g} "
            "epochs of everything have; lower `characters`, or raise `most_epochs`"
        )
    left = total
    while weights:
        scale = left / sum(weights.values())
        full = [group for group, weight in weights.items() if weight * scale >= most[group]]
        if not full:
            return read | {group: weight * scale for group, weight in weights.items()}
        for group in full:
            read[group] = most[group]
            left = max(left - most[group], 0.0)
            del weights[group]
    return read


def copies(table: "pa.Table", epochs: Mapping[Cell, float], seed: int) -> list[int]:
    """How often each document of a table is taken: the whole epochs of its cell, and once more for some, chosen by
    their ids."""
    columns = (table[name].to_pylist() for name in ("id", *Cell._fields))
    taken = []
    for identity, *cell in zip(*columns, strict=True):
        times = epochs[Cell(*cell)]
        drawn = int.from_bytes(hashlib.sha256(f"mix {seed} {identity}".encode()).digest()[:8], "big") / 2**64
        taken.append(int(times) + (drawn < times % 1))
    return taken


def _shards(corpus: Path) -> list[Path]:
    return sorted((corpus / "shards").glob("*.parquet"))


@stage("mixture", inputs=("corpus",))
def mixture(settings: MixSettings, corpus: Artifact, out: Path, progress: Progress) -> Outcome:
    """Writes shards/epoch-*-part-*.parquet, the documents that are read once before those that are read again, and
    mixture.json: the plan, and what came of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kiban.artifacts.files import write_json
    from kiban.corpus.curate import write_table

    rows = plan(sizes(corpus.path), settings)
    epochs = {Cell(row.source, row.register, row.language): row.epochs for row in rows}
    (out / "shards").mkdir(exist_ok=True)
    most = -int(-max(epochs.values()) // 1)
    shards = _shards(corpus.path)
    with progress.task("mixing", most * len(shards), "shards") as task:
        for epoch in range(most):
            for shard in shards:
                path = out / "shards" / f"epoch-{epoch:03}-{shard.name}"
                if not path.exists():
                    table = pq.read_table(shard)
                    taken = table.filter(pa.array([n > epoch for n in copies(table, epochs, settings.seed)]))
                    if len(taken):
                        write_table(taken, path)
                task.advance()
    came = sizes(out)
    documents = sum(size.documents for size in came.values())
    characters = sum(size.characters for size in came.values())
    if not documents:
        raise KibanError("[mix]: no document is taken; raise `characters` or `epochs`")
    taken_of = {cell: asdict(came.get(cell, Size(0, 0))) for cell in epochs}
    told = [asdict(row) | {"taken": taken_of[Cell(row.source, row.register, row.language)]} for row in rows]
    write_json(out / "mixture.json", {"plan": told})
    return Outcome(
        {
            "mixture.documents": Metric(value=documents, unit="documents"),
            "mixture.characters": Metric(value=characters, unit="characters"),
            "mixture.epochs_most": Metric(value=max(epochs.values()), unit="epochs"),
        }
    )
