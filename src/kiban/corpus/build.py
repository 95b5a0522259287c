"""From sources to a corpus, in two passes.

First every piece of every source by itself (`curate.py`). Then, with the signatures of all of them at hand,
duplicates and what is held back are decided, and each piece is written again without what fell out. Text is in memory a
few pieces a worker at a time; of all documents together only their keys are, some 600 bytes for each different text. A
piece is a row group: a run that is killed goes on behind the last one that was finished, in either pass."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.progress import Progress, Task
from kiban.corpus import duplicates, hold_back, parts
from kiban.corpus.curate import Job, make_piece
from kiban.corpus.documents import Terms
from kiban.corpus.engines import Engine
from kiban.corpus.pieces import Piece, pieces
from kiban.corpus.quality import Recipe
from kiban.corpus.readers import FORMATS
from kiban.corpus.selection import selection
from kiban.corpus.sources import SourceSettings, all_terms
from kiban.corpus.stage import CorpusSettings, granted

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
    # Those of the source first, then those of each override, as the documents carry them. What grants too little, be
    # it by its constraints or its expiry, carries no use.
    given, grants = all_terms(source), granted(source, corpus)
    licences = [source.licence, *(own.licence or source.licence for own in source.overrides)]
    terms = [
        Terms(
            licence,
            tuple(sorted(rights.uses)) if comes_in else (),
            tuple(sorted(rights.residency)),
            rights.expires.isoformat() if rights.expires else "",
            tuple(sorted(rights.obligations)),
        )
        for licence, rights, comes_in in zip(licences, given, grants, strict=True)
    ]
    job = Job(
        source=source.name,
        partner=source.partner,
        register=source.register_,
        terms=terms[0],
        overrides=tuple((o.meant(), own) for o, own in zip(source.overrides, terms[1:], strict=True)),
        needs=frozenset() if all(grants) else frozenset(corpus.needs),
        withdrawn=selection(corpus.withdrawn),
        format=source.format,
        encoding=source.encoding or FORMATS[source.format].encoding,
        recipe=recipe,
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


def read_sources(inputs: list[Input], folder: Path, engine: Engine, progress: Progress) -> list[Path]:
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
                task.note(source.job.source)
                for piece in source.pieces():
                    number = piece.number
                    if not source.job.piece_folder(number).exists():
                        yield source.job, piece
                    task.update((done + min(piece.consumed, source.bytes)) / 1e6)
                numbers[source.job.source] = number + 1
                done += source.bytes

        with progress.task("reading", sum(source.bytes for source in inputs) / 1e6, "MB") as task:
            for _ in engine.run(make_piece, work(task)):
                pass
        write_json(finished, numbers)
    numbers = read_json(finished)
    found = []
    for source in inputs:
        folders = [source.job.piece_folder(number) for number in range(numbers[source.job.source])]
        _check_source(source.job, folders, progress)
        found += folders
    return found


def _check_source(job: Job, folders: list[Path], progress: Progress) -> None:
    name = job.source
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
    found: Counter[str] = Counter()
    first_of: dict[str, dict[str, str]] = {}
    for folder in folders:
        table = pq.read_table(folder / "ledger.parquet", columns=["reason", "uri", "detail"])
        table = table.filter(pc.is_in(table["reason"], pa.array(list(remedies))))
        found.update(table["reason"].to_pylist())
        for row in table.to_pylist():
            first_of.setdefault(row["reason"], row)
    if found.total() == documents:
        first = next(iter(first_of.values()))
        raise KibanError(
            f"source '{name}': none of its {documents} documents can be read as {job.format} in {job.encoding} "
            f"({first['uri']}: {first['detail']}); {remedies[first['reason']]}"
        )
    lost = [reason for reason in ("damaged", "bomb", "unsafe_name", "encrypted") if found[reason]]
    if lost:
        first = first_of[lost[0]]
        progress.say(
            f"warning: source '{name}': {sum(found[reason] for reason in lost)} files were not read or not to their "
            f"end, such as {first['uri']}: {first['detail']} (all are in the ledger)"
        )


@dataclass(frozen=True)
class Decision:
    """For each of N documents in order: whether it stays, whether it is held back, and for a duplicate of which (its
    id) and how alike. `cuts` (M x 3) are the places to be cut out of documents, as `parts.cut` takes them."""

    stays: np.ndarray
    held: np.ndarray
    of: np.ndarray
    exact: np.ndarray
    similarity: np.ndarray
    cuts: np.ndarray

    def of_rows(self, start: int, stop: int) -> "Decision":
        """That of the documents [start, stop) alone, counted from 0."""
        first, last = np.searchsorted(self.cuts[:, 0], [start, stop])
        cuts = self.cuts[first:last] - np.array([start, 0, 0], np.int32)
        rows = slice(start, stop)
        return Decision(self.stays[rows], self.held[rows], self.of[rows], self.exact[rows], self.similarity[rows], cuts)


def decide(folders: list[Path], inputs: list[Input], settings: CorpusSettings, work: Path) -> Decision:
    """What of all documents is a duplicate, what is held back, and what is cut. Decided once: kept below `work`."""
    kept = work / "decision.npz"
    if not kept.exists():
        found = _decide(folders, inputs, settings, work)
        temporary = kept.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **{f.name: getattr(found, f.name) for f in fields(found)})
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(kept)
    with np.load(kept) as stored:
        return Decision(**stored)


def _decide(folders: list[Path], inputs: list[Input], settings: CorpusSettings, work: Path) -> Decision:
    by_author = {source.job.source: source.by_author for source in inputs}
    keys: dict[str, list[np.ndarray]] = defaultdict(list)
    sources: list[str] = []
    authors: list[str] = []
    for folder in folders:
        with np.load(folder / "keys.npz") as stored:
            for name in ("ids", "characters", "fingerprints"):
                keys[name].append(stored[name])
        table = pq.read_table(folder / "documents.parquet", columns=["source", "author"])
        sources += table["source"].to_pylist()
        authors += table["author"].to_pylist()
    ids, characters, prints = (np.concatenate(keys[name]) for name in ("ids", "characters", "fingerprints"))
    ranked = duplicates.rank(prints, characters, ids)
    signs = _signatures(folders, ranked, settings, work)
    found = duplicates.find(ranked, signs, settings.bands, settings.near_duplicate, LOOSE)
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
    return Decision(stays, held, ids[found.kept], found.exact, found.similarity, cuts)


def _signatures(folders: list[Path], ranked: duplicates.Ranked, settings: CorpusSettings, work: Path) -> np.ndarray:
    """The signatures of all different texts, by rank. They are most of what there is to know of a document, so they lie
    in a file that is mapped: what is not looked at need not be in memory."""
    shape = (len(ranked.unique), settings.permutations)
    dtype = np.uint32 if settings.signature_bits == 32 else np.uint64
    if not shape[0]:
        return np.empty(shape, dtype)
    rows = np.full(len(ranked.documents), -1)  # document -> row
    rows[ranked.documents[ranked.unique]] = np.arange(shape[0])
    mapped = np.lib.format.open_memmap(work / "signatures.npy", mode="w+", dtype=dtype, shape=shape)
    start = 0
    for folder in folders:
        with np.load(folder / "keys.npz") as stored:
            signs = stored["signatures"]
        to = rows[start : start + len(signs)]
        mapped[to[to >= 0]] = signs[to >= 0]
        start += len(signs)
    return np.asarray(mapped)


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
