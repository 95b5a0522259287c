"""One piece of a source: read, normalise, judge, mask, decontaminate, sign. What is made is a folder that appears by
one rename; the same piece gives the same bytes in it on any worker. A piece is one row group of Parquet."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.files import fsync_folder, write_json
from kiban.corpus import language, names
from kiban.corpus.decontamination import Grams, held
from kiban.corpus.documents import (
    Document,
    Refused,
    Terms,
    Unreadable,
    contaminated_schema,
    document_id,
    ledger_of,
    masks_of,
    table_of,
)
from kiban.corpus.masks import mask
from kiban.corpus.minhash import fingerprints, signatures
from kiban.corpus.normalise import normalise
from kiban.corpus.parts import paragraphs, spans
from kiban.corpus.pieces import Piece
from kiban.corpus.quality import Recipe, figures, judge
from kiban.corpus.readers import FORMATS
from kiban.corpus.readers.member import Member
from kiban.corpus.selection import Selection

HALF_WIDTH = re.compile("[｡-ﾟ]")


@dataclass(frozen=True, slots=True)
class Job:
    """How the pieces of one source are made. `terms` are those of the source, `overrides` those of some of its
    documents: the first that means a document counts. A document must grant all of `needs`. `folder` is where finished
    pieces lie."""

    source: str
    partner: str
    register: str
    terms: Terms
    overrides: tuple[tuple[Selection, Terms], ...]
    needs: frozenset[str]
    withdrawn: Selection
    format: str
    encoding: str
    recipe: Recipe
    permutations: int
    signature_bits: Literal[32, 64]
    repeated_paragraphs: int | None
    repeated_spans: int | None
    mask_names: bool
    grams: Path
    folder: Path

    def piece_folder(self, number: int) -> Path:
        return self.folder / f"{self.source}-{number:05}"


def make_piece(job: Job, piece: Piece) -> None:
    """Makes a piece and commits it: documents that stand so far, ledger, keys for the comparison with others,
    counts."""
    documents, refused = read(job, piece)
    counts: Counter[str] = Counter(documents_in=len(documents) + len(refused), other_files=piece.others)
    table = table_of(documents, job.source, job.partner, job.register)
    text = normalise(_strings(table["text"]), keep_letters=job.format == "aozora")
    table = table.set_column(1, "text", text)
    scores = figures(job.recipe, text, language.STATISTICS)
    found = language.languages(text, scores)
    table = table.set_column(table.column_names.index("language"), "language", pa.array(found, pa.string()))
    characters = scores["characters"].astype(np.int64)
    counts["characters_in"] = int(characters.sum())

    def drop(rows: Iterable[tuple[int, str, float, str]]) -> None:
        """Moves rows of `table` to the ledger."""
        nonlocal table, characters
        rows = list(rows)
        for row, reason, score, detail in rows:
            uri, title = table["uri"][row].as_py(), table["title"][row].as_py()
            why = Refused(uri, reason, detail, b"", title, score, int(characters[row]))
            refused.append((table["id"][row].as_py(), why))
        staying = np.ones(len(table), bool)
        staying[[row for row, *_ in rows]] = False
        table, characters = table.filter(pa.array(staying)), characters[staying]

    drop((row, "empty", 0.0, "no text in it") for row in np.flatnonzero(characters == 0).tolist())
    scores = {name: column[scores["characters"] > 0] for name, column in scores.items()}
    verdicts = judge(job.recipe, scores, table["register"].to_pylist(), table["uri"].to_pylist())
    drop((verdict.row, verdict.reason, verdict.score, verdict.detail) for verdict in verdicts)
    grams = _load_grams(job.grams)
    rows, items, shares = held(_strings(table["text"]), grams)
    taken = table.select(["id", "source", "uri"]).take(pa.array(rows))
    contaminated = pa.table([*taken.columns, pa.array(items), pa.array(shares)], schema=contaminated_schema())
    best = {int(rows[at]): at for at in np.lexsort((-items, shares, rows)).tolist()}  # the last of a row is its best
    drop(
        (row, "contaminated", float(shares[at]), f"holds the evaluation text 「{grams.text(items[at])[:80]}」")
        for row, at in best.items()
    )
    text, masked = mask(_strings(table["text"]))
    if job.mask_names:
        text, named = names.mask(text)
        masked = [places + more for places, more in zip(masked, named, strict=True)]
    table = table.set_column(1, "text", text)
    for places in masked:
        counts.update({f"masked.{category}": number for category, number in places.items()})

    folder = job.piece_folder(piece.number)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_table(table, temporary / "documents.parquet")
    write_table(ledger_of(refused, job.source), temporary / "ledger.parquet")
    write_table(contaminated, temporary / "contaminated.parquet")
    write_table(masks_of(table["id"].to_pylist(), masked), temporary / "masks.parquet")
    keys: dict[str, Any] = {
        "ids": np.array(table["id"].to_pylist(), dtype="S32"),
        "characters": characters,
        "fingerprints": fingerprints(text),
        "signatures": signatures(text, job.permutations, job.signature_bits),
    }
    if job.repeated_paragraphs:
        lines = paragraphs(text, job.repeated_paragraphs)
        keys |= {"paragraph_hashes": lines.hashes, "paragraph_places": lines.places}
    if job.repeated_spans:
        winnowed = spans(text, job.repeated_spans)
        keys |= {"span_hashes": winnowed.hashes, "span_places": winnowed.places}
    with (temporary / "keys.npz").open("wb") as file:
        np.savez(file, **keys)
        file.flush()
        os.fsync(file.fileno())
    write_json(temporary / "counts.json", dict(counts))
    fsync_folder(temporary)
    temporary.rename(folder)


def read(job: Job, piece: Piece) -> tuple[list[tuple[str, Document, Terms]], list[tuple[str, Refused]]]:
    """The documents of a piece with their ids and terms, and what of it goes no further: what could not be read, what
    is withdrawn, and what grants less than is needed."""
    source = job.source
    documents: list[tuple[str, Document, Terms]] = []
    refused = [(document_id(source, item.uri, item.raw), item) for item in piece.refused]
    for member in piece.members:
        for item in _documents(job, member):
            if isinstance(item, Refused):
                refused.append((document_id(source, item.uri, item.raw), item))
                continue
            raw = item.text.encode(errors="surrogatepass")
            identity = document_id(source, item.uri, raw)
            if half := _half_pair(item):
                uri = item.uri.encode(errors="backslashreplace").decode()
                refused.append((identity, Refused(uri, "undecodable", f"half of a surrogate pair, {half!r}", raw)))
                continue
            if by := job.withdrawn.why(source, identity, item.uri):
                refused.append((identity, _left_out(item, "withdrawn", f"by {by}")))
                continue
            terms = next((own for meant, own in job.overrides if meant.why(source, identity, item.uri)), job.terms)
            if missing := sorted(job.needs.difference(terms.uses)):
                refused.append((identity, _left_out(item, "not_granted", f"its terms do not grant {missing[0]}")))
            else:
                documents.append((identity, item, terms))
    return documents, refused


def _left_out(item: Document, reason: str, detail: str) -> Refused:
    return Refused(item.uri, reason, detail, b"", item.title, 0.0, len(item.text))


def _documents(job: Job, member: Member) -> Iterator[Document | Refused]:
    item = None
    try:
        for item in FORMATS[job.format].read(member, job.encoding):
            if job.encoding == "cp932" and isinstance(item, Document) and _is_euc_jp(item.text):
                yield Refused(item.uri, "undecodable", "half-width kana throughout: EUC-JP?", member.data)
            else:
                yield item
        if item is None:
            yield Refused(member.name, "malformed", "there is no document in it", member.data)
    except UnicodeDecodeError as error:
        detail = f"not {error.encoding}: {error.reason} at byte {error.start}"
        yield Refused(member.name, "undecodable", detail, member.data)
    except Unreadable as error:
        yield Refused(member.name, "malformed", str(error), member.data)
    except RecursionError:
        yield Refused(member.name, "malformed", "nested too deeply", member.data)
    except Exception as error:  # a fault of a reader costs the document it met, not the run
        detail = f"{type(error).__name__}: {error}"[:500]
        yield Refused(member.name, "reader_failed", detail, member.data)


def _half_pair(document: Document) -> str:
    """Half of a surrogate pair, which no UTF-8 has, in any of the strings; or nothing."""
    try:
        for string in (document.text, document.uri, document.title, document.author, document.date, document.register):
            string.encode()
    except UnicodeEncodeError as error:
        return str(error.object[error.start])
    return ""


def _is_euc_jp(text: str) -> bool:
    """Whether a text decoded as CP932 looks like EUC-JP, most of which CP932 takes for half-width kana."""
    return 3 * len(HALF_WIDTH.findall(text, 0, 2000)) > min(len(text), 2000)


def _strings(column: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


@lru_cache(maxsize=1)
def _load_grams(path: Path) -> Grams:
    with np.load(path) as stored:
        return Grams(**stored)


def save_grams(grams: Grams, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(grams, name) for name in Grams.__dataclass_fields__})


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a Parquet file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    alike = [name for name in table.column_names if name != "text"]  # no two texts are, and to look costs time
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=max(len(table), 1), use_dictionary=alike)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
