"""From sources to a corpus, in two passes.

First every piece of every source by itself (`curate.py`). Then, with the signatures of all of them at hand,
duplicates and what is held back are decided, and the pieces are written as shards without what fell out. Text is in
memory one piece a worker at a time; of all documents together only their keys are, some 600 bytes each. A run that is
killed goes on behind the last piece or shard that was finished."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.progress import Progress, Task
from kiban.corpus import duplicates, hold_back, parts
from kiban.corpus.curate import Job, make_piece, write_table
from kiban.corpus.documents import Terms, cuts_schema, document_schema, ledger_schema, masks_schema
from kiban.corpus.masks import PLACEHOLDERS
from kiban.corpus.pieces import Piece, pieces
from kiban.corpus.quality import Recipe
from kiban.corpus.readers import FORMATS
from kiban.corpus.stage import CorpusSettings, SourceSettings

DEMO_MEGABYTES = 4.0
LOOSE = 0.5  # Jaccard similarity from which on two documents stay on the same side of the split


@dataclass(frozen=True)
class Input:
    """A source to build from: how, its pieces (read again at each call), and the bytes of its files."""

    job: Job
    pieces: Callable[[], Iterator[Piece]]
    bytes: int
    by_author: bool


def input_of(source: SourceSettings, corpus: CorpusSettings, recipe: Recipe, work: Path, num_bytes: int) -> Input:
    """The input that a source is, with scratch under `work`."""
    terms = Terms(source.name, source.partner, source.licence, source.uses, source.residency, source.register_)
    job = Job(
        terms=terms,
        format=source.format,
        encoding=source.encoding or FORMATS[source.format].encoding,
        recipe=recipe,
        withdrawn=frozenset(corpus.withdrawn),
        permutations=corpus.permutations,
        signature_bits=corpus.signature_bits,
        repeated_paragraphs=corpus.repeated_paragraphs,
        repeated_spans=corpus.repeated_spans,
        mask_names=corpus.mask_names,
        grams=work / "grams.npz",
        folder=work / "pieces",
    )
    if source.place() is None:
        num_bytes = int(1e6 * (source.megabytes or DEMO_MEGABYTES))
    cut = partial(
        pieces,
        source.name,
        source.format,
        source.place(),
        source.megabytes or DEMO_MEGABYTES,
        source.seed or 0,
        source.extraction(),
    )
    return Input(job, cut, num_bytes, by_author=source.format == "aozora")


def run_pieces(work: Iterator[tuple[Job, Piece]], workers: int) -> Iterator[tuple[Job, Piece]]:
    """Makes pieces, in this process or on as many others, and gives each when it is made. Other engines can take this
    function's place: a piece is made by `make_piece(job, piece)` wherever its folder can be reached."""
    if workers == 1:
        for job, piece in work:
            make_piece(job, piece)
            yield job, piece
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: deque[tuple[Job, Piece, Future[None]]] = deque()
        for job, piece in work:
            running.append((job, piece, pool.submit(make_piece, job, piece)))
            if len(running) > 2 * workers:
                job, piece, future = running.popleft()
                future.result()
                yield job, piece
        for job, piece, future in running:
            future.result()
            yield job, piece


def read_sources(inputs: list[Input], folder: Path, workers: int, progress: Progress) -> list[Path]:
    """Makes all pieces that are not there yet; gives the folders of all, in order.

    Raises:
        KibanError: for a source that cannot be read, is empty, or holds nothing in its encoding.
    """
    finished = folder / "pieces.json"
    if not finished.exists():
        numbers: dict[str, int] = {}
        done = 0

        def work(task: Task) -> Iterator[tuple[Job, Piece]]:
            nonlocal done
            for source in inputs:
                number = -1
                task.note(source.job.terms.source)
                for piece in source.pieces():
                    number = piece.number
                    if not source.job.piece_folder(number).exists():
                        yield source.job, piece
                    task.update((done + min(piece.consumed, source.bytes)) / 1e6)
                numbers[source.job.terms.source] = number + 1
                done += source.bytes

        with progress.task("reading", sum(source.bytes for source in inputs) / 1e6, "MB") as task:
            for _ in run_pieces(work(task), workers):
                pass
        write_json(finished, numbers)
    numbers = read_json(finished)
    found = []
    for source in inputs:
        folders = [source.job.piece_folder(number) for number in range(numbers[source.job.terms.source])]
        _check_source(source.job, folders, progress)
        found += folders
    return found


def _check_source(job: Job, folders: list[Path], progress: Progress) -> None:
    name = job.terms.source
    documents = sum(read_json(folder / "counts.json").get("documents_in", 0) for folder in folders)
    if documents == 0:
        raise KibanError(f"source '{name}': there is no document in it; correct its `path` or its `format`")
    remedies = {
        "undecodable": "give the right one as `encoding`",
        "malformed": "correct its `format`",
        "reader_failed": "correct its `format`",
        "empty": "correct its `path`",
        **dict.fromkeys(
            ("damaged", "bomb", "unsafe_name", "encrypted", "not_a_file"), "see what its sender says to it"
        ),
    }
    tables = [pq.read_table(folder / "ledger.parquet", columns=["reason", "uri", "detail"]) for folder in folders]
    rows = [row for table in tables for row in table.to_pylist() if row["reason"] in remedies]
    if len(rows) == documents:
        first = rows[0]
        raise KibanError(
            f"source '{name}': none of its {documents} documents can be read as {job.format} in {job.encoding} "
            f"({first['uri']}: {first['detail']}); {remedies[first['reason']]}"
        )
    lost = [row for row in rows if row["reason"] in ("damaged", "bomb", "unsafe_name", "encrypted")]
    if lost:
        progress.say(
            f"warning: source '{name}': {len(lost)} files were not read or not to their end, such as "
            f"{lost[0]['uri']}: {lost[0]['detail']} (all are in the ledger)"
        )


@dataclass(frozen=True)
class Decision:
    """For each document of all pieces, in order: whether it stays, whether it is held back, and for a duplicate why.
    `cuts` (M x 3) are the places to be cut out of documents, as `parts.cut` takes them."""

    stays: np.ndarray
    held: np.ndarray
    kept: np.ndarray
    exact: np.ndarray
    similarity: np.ndarray
    ids: np.ndarray
    cuts: np.ndarray


def decide(folders: list[Path], inputs: list[Input], settings: CorpusSettings) -> Decision:
    """What of all documents is a duplicate, what is held back, and what is cut."""
    by_author = {source.job.terms.source: source.by_author for source in inputs}
    keys: dict[str, list[np.ndarray]] = defaultdict(list)
    sources: list[str] = []
    authors: list[str] = []
    for folder in folders:
        with np.load(folder / "keys.npz") as stored:
            for name in ("ids", "characters", "fingerprints", "signatures"):
                keys[name].append(stored[name])
        table = pq.read_table(folder / "documents.parquet", columns=["source", "author"])
        sources += table["source"].to_pylist()
        authors += table["author"].to_pylist()
    ids, characters, prints, signs = (
        np.concatenate(keys[n]) for n in ("ids", "characters", "fingerprints", "signatures")
    )
    found = duplicates.find(prints, signs, characters, ids, settings.bands, settings.near_duplicate, LOOSE)
    stays = found.kept == np.arange(len(ids))
    who = [author if by_author[source] else "" for source, author in zip(sources, authors, strict=True)]
    group = hold_back.groups(found.cluster, who)
    left = np.flatnonzero(stays)
    held = np.zeros(len(ids), bool)
    held[left] = hold_back.choose(
        group[left], ids[left].tolist(), [sources[i] for i in left], characters[left], settings.hold_back
    )
    rank = np.full(len(ids), -1)  # what is held back comes first, so that nothing of it is trained on
    order = np.lexsort((ids, -characters, ~held))
    rank[order] = np.where(stays[order], np.arange(len(ids)), -1)
    cuts = _cuts(folders, rank, settings)
    return Decision(stays, held, found.kept, found.exact, found.similarity, ids, cuts)


def _cuts(folders: list[Path], rank: np.ndarray, settings: CorpusSettings) -> np.ndarray:
    """The places of repeated paragraphs and spans (M x 3), in the order of all documents."""
    found = [np.empty((0, 3), np.int32)]
    for name, characters in (("paragraph", settings.repeated_paragraphs), ("span", settings.repeated_spans)):
        if characters is None:
            continue
        hashes, places = [], []
        start = 0
        for folder in folders:
            with np.load(folder / "keys.npz") as stored:
                hashes.append(stored[f"{name}_hashes"])
                places.append(stored[f"{name}_places"] + np.array([start, 0, 0, 0], np.int32))
                start += len(stored["ids"])
        all_parts = parts.Parts(np.concatenate(hashes), np.concatenate(places))
        which = parts.repeated(all_parts, rank)
        found.append(parts.joined(all_parts, which, characters) if name == "span" else all_parts.places[which, :3])
    return parts.united(np.concatenate(found))


def write_corpus(folders: list[Path], decision: Decision, out: Path, progress: Progress) -> None:
    """Writes shards, held_back.parquet and ledger.parquet."""
    (out / "shards").mkdir(exist_ok=True)
    start = shard = 0
    held_back = _Appended(out / "held_back.parquet", document_schema())
    ledger = _Appended(out / "ledger.parquet", ledger_schema())
    masks = _Appended(out / "masks.parquet", masks_schema())
    cuts = _Appended(out / "cuts.parquet", cuts_schema())
    with progress.task("writing", len(folders), "pieces") as task:
        for folder in folders:
            table = pq.read_table(folder / "documents.parquet")
            rows = slice(start, start + len(table))
            start += len(table)
            whole = table
            table, left, cut = _without_cuts(whole, decision, rows)
            cuts.add(cut)
            held = decision.held[rows]
            kept = table.filter(pa.array(decision.stays[rows] & ~held & left))
            if len(kept):
                path = out / "shards" / f"part-{shard:05}.parquet"
                if not path.exists():
                    write_table(kept, path)
                shard += 1
            held_back.add(table.filter(pa.array(held & left)))
            masked = pq.read_table(folder / "masks.parquet")
            masks.add(masked.filter(pc.is_in(masked["id"], table["id"].filter(pa.array(decision.stays[rows] & left)))))
            ledger.add(pq.read_table(folder / "ledger.parquet"))
            ledger.add(_duplicate_rows(table, decision, rows))
            ledger.add(_emptied_rows(whole.filter(pa.array(~left))))
            task.advance()
    held_back.close()
    ledger.close()
    masks.close()
    cuts.close()


def _without_cuts(table: pa.Table, decision: Decision, rows: slice) -> tuple[pa.Table, np.ndarray, pa.Table]:
    """The documents with what is to be cut taken out, in which of them (bool) text is left, and how much went."""
    first, last = np.searchsorted(decision.cuts[:, 0], [rows.start, rows.stop])
    if first == last:
        return table, np.ones(len(table), bool), cuts_schema().empty_table()
    places = decision.cuts[first:last] - np.array([rows.start, 0, 0], np.int32)
    text = parts.cut(pa.concat_arrays(table["text"].chunks), places)
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


def _duplicate_rows(table: pa.Table, decision: Decision, rows: slice) -> pa.Table:
    out = ~decision.stays[rows]
    of = decision.ids[decision.kept[rows][out]]
    dropped = table.filter(pa.array(out))
    exact = decision.exact[rows][out]
    columns = {name: dropped[name] for name in ("id", "source", "uri", "title")}
    columns["reason"] = pa.array(np.where(exact, "duplicate_exact", "duplicate_near").tolist(), pa.string())
    columns["score"] = pa.array(decision.similarity[rows][out])
    columns["detail"] = pa.array([f"of {identity.decode()}" for identity in of.tolist()], pa.string())
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


def summarise(folders: list[Path], inputs: list[Input], out: Path) -> dict[str, Any]:
    """Counts for each source, written to summary.json: documents and characters in, kept, held back, dropped by reason,
    masked by category, and files that were not of the format."""
    sources: dict[str, dict[str, Any]] = {}
    for source in inputs:
        counts: Counter[str] = Counter()
        name = source.job.terms.source
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
    cut = pq.read_table(out / "cuts.parquet").group_by("source").aggregate([("characters", "sum")])
    for row in cut.to_pylist():
        sources[row["source"]]["characters_cut"] = row["characters_sum"]
    ledger = pq.read_table(out / "ledger.parquet", columns=["source", "reason"]).group_by(["source", "reason"])
    for row in sorted(ledger.aggregate([([], "count_all")]).to_pylist(), key=lambda row: row["reason"]):
        sources[row["source"]]["dropped"][row["reason"]] = row["count_all"]
    for name, summary in sources.items():
        gone = sum(summary["dropped"].values())
        assert summary["documents_in"] == summary["documents_kept"] + summary["documents_held_back"] + gone, name
    if not any(summary["documents_kept"] for summary in sources.values()):
        reasons = sum((Counter(summary["dropped"]) for summary in sources.values()), Counter[str]())
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
        raise KibanError(f"[corpus]: no document is left ({told}); give more text, or set another `recipe`")
    write_json(out / "summary.json", {"sources": sources})
    return sources
