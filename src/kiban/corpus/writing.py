"""The second pass: each piece written again without what fell out, the tables beside the shards, and the counts."""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder, write_json
from kiban.artifacts.progress import Progress
from kiban.corpus import parts
from kiban.corpus.build import Decision, Input
from kiban.corpus.curate import write_table
from kiban.corpus.decontamination import Grams, numbered
from kiban.corpus.documents import contaminated_schema, cuts_schema, document_schema, ledger_schema, masks_schema
from kiban.corpus.engines import Engine
from kiban.corpus.evaluation_sets import Item
from kiban.corpus.masks import PLACEHOLDERS


def write_corpus(
    folders: list[Path], decision: Decision, work: Path, out: Path, engine: Engine, progress: Progress
) -> None:
    """Writes shards, held_back.parquet, ledger.parquet, masks.parquet and cuts.parquet. The shard of a piece has its
    number."""
    starts = np.cumsum([0, *(pq.read_metadata(folder / "documents.parquet").num_rows for folder in folders)]).tolist()
    written = [work / "written" / f"{number:05}" for number in range(len(folders))]

    def left() -> Iterator[tuple[Path, Decision, Path]]:
        for folder, start, stop, to in zip(folders, starts[:-1], starts[1:], written, strict=True):
            if not to.exists():
                yield folder, decision.of_rows(start, stop), to

    with progress.task("writing", len(folders), "pieces") as task:
        task.update(sum(folder.exists() for folder in written))
        for _ in engine.run(finish_piece, left()):
            task.advance()
    (out / "shards").mkdir(exist_ok=True)
    tables = {name: _Appended(out / f"{name}.parquet", schema()) for name, schema in TABLES.items()}
    for number, folder in enumerate(written):
        shard = out / "shards" / f"part-{number:05}.parquet"
        if (folder / "kept.parquet").exists() and not shard.exists():
            _link(folder / "kept.parquet", shard)
        for name, table in tables.items():
            table.add(pq.read_table(folder / f"{name}.parquet"))
    for table in tables.values():
        table.close()


TABLES = {"held_back": document_schema, "ledger": ledger_schema, "masks": masks_schema, "cuts": cuts_schema}


def finish_piece(folder: Path, decision: Decision, to: Path) -> None:
    """Writes a piece without what fell out, and what there is to say of it, to the folder `to`, which appears by one
    rename. `decision` is of the piece's documents alone."""
    whole = pq.read_table(folder / "documents.parquet")
    table, left, cut = _without_cuts(whole, decision)
    kept = table.filter(pa.array(decision.stays & ~decision.held & left))
    masked = pq.read_table(folder / "masks.parquet")
    ledger = [pq.read_table(folder / "ledger.parquet"), _duplicate_rows(table, decision)]
    tables = {
        "held_back": table.filter(pa.array(decision.held & left)),
        "ledger": pa.concat_tables([*ledger, _emptied_rows(whole.filter(pa.array(~left)))]),
        "masks": masked.filter(pc.is_in(masked["id"], table["id"].filter(pa.array(decision.stays & left)))),
        "cuts": cut,
    }
    temporary = to.with_name(f"{to.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if len(kept):
        write_table(kept, temporary / "kept.parquet")
    for name, rows in tables.items():
        write_table(rows, temporary / f"{name}.parquet")
    fsync_folder(temporary)
    temporary.rename(to)


def _link(path: Path, to: Path) -> None:
    """`to` is `path` too, or a copy where the file system has no links: an error takes what is outside `.work`."""
    try:
        os.link(path, to)
    except OSError:
        temporary = to.with_name(f".{to.name}.tmp")
        shutil.copyfile(path, temporary)
        temporary.rename(to)


def _without_cuts(table: pa.Table, decision: Decision) -> tuple[pa.Table, np.ndarray, pa.Table]:
    """The documents with what is to be cut taken out, in which of them (bool) text is left, and how much went."""
    if not len(decision.cuts):
        return table, np.ones(len(table), bool), cuts_schema().empty_table()
    text = parts.cut(pa.concat_arrays(table["text"].chunks), decision.cuts)
    gone = pc.subtract(pc.utf8_length(table["text"]), pc.utf8_length(text))
    columns = {"id": table["id"], "source": table["source"], "characters": gone}
    cut = pa.table(columns).filter(pc.greater(gone, 0)).cast(cuts_schema())
    left = np.array(pc.utf8_length(pc.utf8_trim_whitespace(text))) > 0
    return table.set_column(1, "text", text), left, cut


def _emptied_rows(dropped: pa.Table) -> pa.Table:
    columns = {name: dropped[name] for name in ("id", "source", "uri", "title")}
    columns["reason"] = pa.array(["repeated_parts"] * len(dropped), pa.string())
    columns["score"] = pa.array([1.0] * len(dropped))
    columns["detail"] = pa.array(["all of it stands in other documents"] * len(dropped), pa.string())
    columns["characters"] = pc.utf8_length(dropped["text"]).cast(pa.int64())
    return pa.table(columns).cast(ledger_schema())


def _duplicate_rows(table: pa.Table, decision: Decision) -> pa.Table:
    out = ~decision.stays
    dropped = table.filter(pa.array(out))
    columns = {name: dropped[name] for name in ("id", "source", "uri", "title")}
    reasons = np.where(decision.exact[out], "duplicate_exact", "duplicate_near").tolist()
    columns["reason"] = pa.array(reasons, pa.string())
    columns["score"] = pa.array(decision.similarity[out])
    columns["detail"] = pa.array([f"of {identity.decode()}" for identity in decision.of[out].tolist()], pa.string())
    columns["characters"] = pc.utf8_length(dropped["text"]).cast(pa.int64())
    return pa.table(columns).cast(ledger_schema())


class _Appended:
    """A Parquet file that is written bit by bit under another name, and is there when it is whole."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd")

    def add(self, table: pa.Table) -> None:
        if len(table):
            self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()
        self._temporary.rename(self._path)


def write_contamination(folders: Sequence[Path], sets: Mapping[str, Sequence[Item]], grams: Grams, out: Path) -> None:
    """Writes what of the evaluation sets the sources held: contaminated.parquet, a row for each document and item, and
    decontamination.json, the counts for each set. Of an item of several texts one is enough."""
    numbers = {text: number for number, text in enumerate(numbered(t for s in sets.values() for i in s for t in i))}
    places: dict[int, list[tuple[str, int]]] = defaultdict(list)
    looked_for: Counter[str] = Counter()
    for name, items in sets.items():
        for at, item in enumerate(items):
            looked_for[name] += any(grams.sizes[numbers[text]] for text in item)
            for text in dict.fromkeys(item):
                places[numbers[text]].append((name, at))
    held: dict[str, set[int]] = {name: set() for name in sets}
    documents: dict[str, set[str]] = {name: set() for name in sets}
    extra = [("set", pa.string()), ("item", pa.int64()), ("text", pa.string()), ("share", pa.float64())]
    schema = pa.schema([*list(contaminated_schema())[:3], *extra])
    rows = _Appended(out / "contaminated.parquet", schema)
    for folder in folders:
        listed = []
        for found in pq.read_table(folder / "contaminated.parquet").to_pylist():
            for name, at in places[found["text"]]:
                listed.append(found | {"set": name, "item": at, "text": grams.text(found["text"])})
                held[name].add(at)
                documents[name].add(found["id"])
        rows.add(pa.Table.from_pylist(listed, schema=schema))
    rows.close()
    counts = {
        name: {
            "items": len(items),
            "looked_for": looked_for[name],
            "held": len(held[name]),
            "documents": len(documents[name]),
        }
        for name, items in sets.items()
    }
    write_json(out / "decontamination.json", {"sets": counts})


def summarise(folders: list[Path], inputs: list[Input], out: Path) -> dict[str, Any]:
    """Counts for each source, written to summary.json: documents and characters in, kept, held back, dropped by reason,
    masked by category, and files that were not of the format."""
    sources: dict[str, dict[str, Any]] = {}
    for source in inputs:
        counts: Counter[str] = Counter()
        name = source.job.source
        for folder in folders:
            if folder.name.rpartition("-")[0] == name:
                counts.update(json.loads((folder / "counts.json").read_text()))
        sources[name] = {
            "documents_in": counts["documents_in"],
            "characters_in": counts["characters_in"],
            "characters_cut": 0,
            "other_files": counts["other_files"],
            "masked": {category: counts[f"masked.{category}"] for category in PLACEHOLDERS},
            "dropped": {},
        }
    for kind, paths in (("kept", sorted((out / "shards").iterdir())), ("held_back", [out / "held_back.parquet"])):
        documents: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(columns=["source", "text"]):
                lengths = pc.utf8_length(batch["text"])
                by_source = pa.table({"source": batch["source"], "n": lengths}).group_by("source")
                for row in by_source.aggregate([("n", "sum"), ("n", "count")]).to_pylist():
                    documents[row["source"]] += row["n_count"]
                    characters[row["source"]] += row["n_sum"]
        for name, summary in sources.items():
            summary |= {f"documents_{kind}": documents[name], f"characters_{kind}": characters[name]}
    for batch in pq.ParquetFile(out / "cuts.parquet").iter_batches():
        for row in pa.table(batch).group_by("source").aggregate([("characters", "sum")]).to_pylist():
            sources[row["source"]]["characters_cut"] += row["characters_sum"]
    dropped: Counter[tuple[str, str]] = Counter()
    for batch in pq.ParquetFile(out / "ledger.parquet").iter_batches(columns=["source", "reason"]):
        for row in pa.table(batch).group_by(["source", "reason"]).aggregate([([], "count_all")]).to_pylist():
            dropped[row["source"], row["reason"]] += row["count_all"]
    for (name, reason), number in sorted(dropped.items()):
        sources[name]["dropped"][reason] = number
    for name, summary in sources.items():
        gone = sum(summary["dropped"].values())
        assert summary["documents_in"] == summary["documents_kept"] + summary["documents_held_back"] + gone, name
    if not any(summary["documents_kept"] for summary in sources.values()):
        reasons = sum((Counter(summary["dropped"]) for summary in sources.values()), Counter[str]())
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
        raise KibanError(f"[corpus]: no document is left ({told}); give more text, or set another `recipe`")
    write_json(out / "summary.json", {"sources": sources})
    return sources
