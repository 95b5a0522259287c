"""Packed tokens: documents one after another in uint32 shards, and the index from token to document and back.

Each document stands as <|bos|> tokens <|eos|>. Offsets are global: they count tokens over all shards.
"""

from collections.abc import Iterable, Iterator
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

SHARD_TOKENS = 256 * 1024**2 // 4
BATCH_CHARACTERS = 1_000_000  # encoded at a time; with ROW_GROUP, what bounds the memory of packing
ROW_GROUP = 65_536  # documents
TOKENS = "tokens.json"
INDEX = "documents.parquet"

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
    count = 0
    rows: list[Place] = []
    writer = _Writer(folder)
    with pq.ParquetWriter(folder / INDEX, SCHEMA, compression="zstd") as index:
        for batch in _batches(documents):
            for document_id, source, text in batch:
                try:
                    ids = tokenizer.encode_batch([text])[0]
                except KibanError as error:
                    raise KibanError(f"document {document_id} of {source}: {error}") from None
                rows.append(Place(document_id, source, writer.total, len(ids) + 2))
                writer.write(np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id]]).astype("<u4"))
            count += len(batch)
            if len(rows) >= ROW_GROUP:
                index.write_table(_table(rows))
                rows = []
            yield writer.total
        index.write_table(_table(rows))
    writer.close()
    content = {
        "total": writer.total,
        "documents": count,
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": tokenizer.digest,
        "shards": writer.sizes,
        "version": 1,
    }
    write_json(folder / TOKENS, content)


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
    def _index(self) -> pa.Table:
        return pq.read_table(self.folder / INDEX)

    @cached_property
    def _document_starts(self) -> np.ndarray:
        return self._index["start"].to_numpy()

    @property
    def num_documents(self) -> int:
        return int(pq.read_metadata(self.folder / INDEX).num_rows)

    def documents(self, start: int, stop: int) -> list[Place]:
        """The documents of which any token lies in [start, stop), in order."""
        if stop <= start:
            return []
        first = max(0, int(np.searchsorted(self._document_starts, start, side="right")) - 1)
        last = int(np.searchsorted(self._document_starts, stop, side="left"))
        return [Place(**row) for row in self._index.slice(first, last - first).to_pylist()]

    def find(self, document_id: str) -> tuple[int, int] | None:
        """(start, length) of a document, in tokens; None if it is not there."""
        row = pc.index(self._index["id"], document_id).as_py()
        return None if row < 0 else (self._index["start"][row].as_py(), self._index["length"][row].as_py())
