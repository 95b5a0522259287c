"""Packed tokens: documents one after another in uint32 shards, and the index from token to document and back.

Each document stands as <|bos|> tokens <|eos|>. Offsets are global: they count tokens over all shards.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.hashing import sha256_bytes, sha256_file
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.passages import PassageWriter, blocks_with

SHARD_TOKENS = 256 * 1024**2 // 4
BATCH_CHARACTERS = 1_000_000  # encoded at a time; with ROW_GROUP, what bounds the memory of packing
ROW_GROUP = 4_096  # documents
TOKENS = "tokens.json"
INDEX = "documents.parquet"
STARTS, KEYS, ROWS = "starts.npy", "keys.npy", "rows.npy"  # by row of the index; ids' hashes, sorted, and their rows

SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("start", pa.int64()), ("length", pa.int64())])


class Place(NamedTuple):
    """A document in the packed tokens: `start` and `length` in tokens."""

    id: str
    source: str
    start: int
    length: int


def pack(tokenizer: Tokenizer, documents: Iterable[tuple[str, str, str]], folder: Path) -> Iterator[int]:
    """Writes the shards and the index; yields the number of tokens so far after every batch of documents.

    Args:
        documents: (id, source, text). Read once; no more than a batch is held.

    Raises:
        KibanError: naming the document that cannot be encoded.
    """
    rows: list[Place] = []
    starts: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    writer, passages = _Writer(folder), PassageWriter(folder)
    with pq.ParquetWriter(folder / INDEX, SCHEMA, compression="zstd") as index:
        for batch in _batches(documents):
            packed, lengths = _encoded(tokenizer, batch)
            begins = writer.total + np.cumsum(lengths) - lengths
            for (document_id, source, text), start, length in zip(
                batch, begins.tolist(), lengths.tolist(), strict=True
            ):
                rows.append(Place(document_id, source, start, length))
                passages.add(text)
            writer.write(packed)
            starts.append(begins)
            keys.append(np.array([_key(document_id) for document_id, _, _ in batch], np.uint64))
            while len(rows) >= ROW_GROUP:
                index.write_table(_table(rows[:ROW_GROUP]))
                rows = rows[ROW_GROUP:]
            yield writer.total
        index.write_table(_table(rows))
    writer.close()
    passages.close()
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    np.save(folder / STARTS, np.concatenate(starts).astype(np.int64))
    np.save(folder / KEYS, all_keys[order])
    np.save(folder / ROWS, order.astype(np.int64))
    content = {
        "total": writer.total,
        "documents": len(all_keys),
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": tokenizer.digest,
        "shards": writer.sizes,
        "version": 2,
    }
    write_json(folder / TOKENS, content)


def _encoded(tokenizer: Tokenizer, batch: list[tuple[str, str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of the documents one after another, each between <|bos|> and <|eos|>, and how many each has."""
    try:
        ids, offsets = tokenizer.encode_strings(pa.array([text for _, _, text in batch], pa.large_string()))
    except UnicodeEncodeError:
        for document_id, source, text in batch:
            try:
                tokenizer.encode(text)
            except KibanError as error:
                raise KibanError(f"document {document_id} of {source}: {error}") from None
        raise
    lengths = np.diff(offsets) + 2
    ends = np.cumsum(lengths)
    packed = np.empty(len(ids) + 2 * len(batch), "<u4")
    inner = np.ones(len(packed), bool)
    inner[ends - 1] = inner[ends - lengths] = False
    packed[inner] = ids
    packed[ends - lengths], packed[ends - 1] = tokenizer.bos_id, tokenizer.eos_id
    return packed, lengths


def _key(document_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "big")


def _batches(documents: Iterable[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    batch: list[tuple[str, str, str]] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document[2])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


def _table(rows: list[Place]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    return pa.table([pa.array(list(c), f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


@dataclass
class _Writer:
    """Appends tokens to shards of SHARD_TOKENS. What an interrupted run left is removed first."""

    folder: Path
    total: int = 0
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stale in self.folder.glob("shard-*.bin"):
            stale.unlink()
        self._open()

    def _open(self) -> None:
        self._file = (self.folder / f"shard-{len(self.sizes):05d}.bin").open("wb")
        self.sizes.append(0)

    def write(self, ids: np.ndarray) -> None:
        while len(ids):
            room = SHARD_TOKENS - self.sizes[-1]
            if room == 0:
                self._file.close()
                self._open()
                continue
            part, ids = ids[:room], ids[room:]
            part.tofile(self._file)
            self.sizes[-1] += len(part)
            self.total += len(part)

    def close(self) -> None:
        self._file.close()


class TokenStore:
    """Packed tokens, memory-mapped."""

    def __init__(self, folder: Path, vocab_size: int, tokenizer: str, sizes: list[int]) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        self.tokenizer = tokenizer  # digest of the tokenizer that packed them
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._shards = [
            np.memmap(folder / f"shard-{i:05d}.bin", dtype="<u4", mode="r") for i, size in enumerate(sizes) if size
        ]

    @staticmethod
    def open(folder: Path) -> "TokenStore":
        """Raises KibanError if a shard is missing, empty, or of another length than tokens.json says."""
        content = read_json(folder / TOKENS)
        try:
            sizes, vocab_size, tokenizer = content["shards"], content["vocabulary"], content["tokenizer"]
        except (KeyError, TypeError):
            raise KibanError(f"{folder / TOKENS}: not a description of packed tokens; pack the tokens again") from None
        for i, size in enumerate(sizes):
            path = folder / f"shard-{i:05d}.bin"
            found = path.stat().st_size if path.is_file() else 0
            if found != 4 * size:
                raise KibanError(f"{path}: holds {found} bytes, tokens.json says {4 * size}; pack the tokens again")
        if not sum(sizes):
            raise KibanError(f"{folder}: holds no token; is the corpus empty?")
        return TokenStore(folder, vocab_size, tokenizer, sizes)

    @property
    def total(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def fingerprint(self) -> str:
        """A digest that other documents, another order of them, or another tokenizer would change. It reads the index
        (document ids are digests of their texts) and not the tokens."""
        return sha256_bytes((sha256_file(self.folder / TOKENS) + sha256_file(self.folder / INDEX)).encode())

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length), uint32, across shards.

        Raises:
            KibanError: if the store ends before that.
        """
        if not 0 <= start <= start + length <= self.total:
            raise KibanError(f"{self.folder}: tokens {start}..{start + length} of {self.total} were asked for")
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while length:
            offset = start - int(self._starts[shard])
            part = np.asarray(self._shards[shard][offset : offset + length])
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return np.concatenate(parts) if parts else np.empty(0, np.uint32)

    @cached_property
    def _index(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / INDEX)

    @cached_property
    def _row_groups(self) -> np.ndarray:
        """The first row of each row group, and the number of rows."""
        metadata = self._index.metadata
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @cached_property
    def _lookup(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts by row; hashes of ids, sorted; their rows. Memory-mapped where `pack` wrote them."""
        if all((self.folder / name).is_file() for name in (STARTS, KEYS, ROWS)):
            mapped = (np.load(self.folder / name, mmap_mode="r") for name in (STARTS, KEYS, ROWS))
            return next(mapped), next(mapped), next(mapped)
        table = self._index.read(["id", "start"])
        keys = np.array([_key(document_id) for document_id in table["id"].to_pylist()], np.uint64)
        order = np.argsort(keys, kind="stable")
        return table["start"].to_numpy(), keys[order], order

    @property
    def num_documents(self) -> int:
        return int(self._index.metadata.num_rows)

    def places(self, first: int, last: int) -> list[Place]:
        """Rows [first, last) of the index; only the row groups that hold them are read."""
        found: list[Place] = []
        while first < last:
            group = int(np.searchsorted(self._row_groups, first, side="right")) - 1
            begin, end = int(self._row_groups[group]), int(self._row_groups[group + 1])
            rows = self._index.read_row_group(group).slice(first - begin, min(last, end) - first)
            found += [Place(**row) for row in rows.to_pylist()]
            first = end
        return found

    def documents(self, start: int, stop: int) -> list[Place]:
        """The documents of which any token lies in [start, stop), in order."""
        if stop <= start:
            return []
        starts = self._lookup[0]
        first = max(0, int(np.searchsorted(starts, start, side="right")) - 1)
        return self.places(first, int(np.searchsorted(starts, stop, side="left")))

    def places_of(self, ids: Collection[str]) -> list[Place]:
        """Every place of these documents, in order: one that is packed for several epochs has several. Reads the row
        groups that hold them alone."""
        _, keys, rows = self._lookup
        wanted = np.array([_key(document_id) for document_id in ids], np.uint64)
        spans = zip(np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right"), strict=True)
        at = np.unique(np.concatenate([np.empty(0, np.int64), *(rows[first:last] for first, last in spans)]))
        names = pa.array(sorted(ids), pa.string())
        found: list[Place] = []
        groups = np.searchsorted(self._row_groups, at, side="right") - 1
        for group in np.unique(groups).tolist():
            there = at[groups == group] - self._row_groups[group]
            here = self._index.read_row_group(group).take(pa.array(there))
            found += [Place(**row) for row in here.filter(pc.is_in(here["id"], names)).to_pylist()]  # keys may collide
        return found

    def search(self, passage: str, tokenizer: Tokenizer) -> Iterator[Place]:
        """The documents that hold an exact passage, in order. Text is what the tokens decode to."""
        starts = self._lookup[0]
        for first, last in blocks_with(self.folder, passage, self.num_documents):
            for row in range(first, last):
                stop = int(starts[row + 1]) if row + 1 < len(starts) else self.total
                ids = self.window(int(starts[row]) + 1, stop - int(starts[row]) - 2)
                if passage.encode() in tokenizer.decode_bytes(ids):
                    yield from self.places(row, row + 1)

    def shard_of(self, offset: int) -> str:
        """The file that holds token `offset`."""
        return f"shard-{int(np.searchsorted(self._starts, offset, side='right')) - 1:05d}.bin"
