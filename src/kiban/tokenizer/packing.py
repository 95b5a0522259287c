"""Packed tokens: documents one after another in uint32 shards, and the index from token to document and back.

Each document stands as <|bos|> tokens <|eos|>. Offsets are global: they count tokens over all shards.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.tokenizer.bpe import Tokenizer

SHARD_TOKENS = 256 * 1024**2 // 4
BATCH_DOCUMENTS = 256
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
        documents: (id, source, text).
    """
    writer = _Writer(folder)
    rows: list[Place] = []
    batch: list[tuple[str, str, str]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == BATCH_DOCUMENTS:
            rows += _append(writer, tokenizer, batch)
            batch = []
            yield writer.total
    rows += _append(writer, tokenizer, batch)
    writer.close()
    table = pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)
    pq.write_table(table, folder / INDEX, compression="zstd")
    write_json(
        folder / "tokens.json",
        {
            "total": writer.total,
            "documents": len(rows),
            "vocabulary": tokenizer.vocab_size,
            "shards": writer.sizes,
            "version": 1,
        },
    )
    yield writer.total


def _append(writer: "_Writer", tokenizer: Tokenizer, batch: list[tuple[str, str, str]]) -> list[Place]:
    places = []
    encoded = tokenizer.encode_batch([text for _, _, text in batch])
    for (document_id, source, _), ids in zip(batch, encoded, strict=True):
        places.append(Place(document_id, source, writer.total, len(ids) + 2))
        writer.write(np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id]]).astype("<u4"))
    return places


@dataclass
class _Writer:
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

    def __init__(self, folder: Path, vocab_size: int, sizes: list[int]) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._shards = [
            np.memmap(folder / f"shard-{i:05d}.bin", dtype="<u4", mode="r") for i, size in enumerate(sizes) if size
        ]
        self._index: pa.Table | None = None

    @property
    def total(self) -> int:
        return int(self._starts[-1])

    @staticmethod
    def open(folder: Path) -> "TokenStore":
        """Raises KibanError if a shard is missing, empty, or of another length than tokens.json says."""
        content = read_json(folder / "tokens.json")
        for i, size in enumerate(content["shards"]):
            path = folder / f"shard-{i:05d}.bin"
            found = path.stat().st_size if path.is_file() else 0
            if found != 4 * size:
                raise KibanError(f"{path}: holds {found} bytes, tokens.json says {4 * size}; pack the tokens again")
        if not content["total"]:
            raise KibanError(f"{folder}: holds no token; is the corpus empty?")
        return TokenStore(folder, content["vocabulary"], content["shards"])

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length), uint32, across shards."""
        if not 0 <= start <= start + length <= self.total:
            raise KibanError(f"{self.folder}: tokens {start}..{start + length} of {self.total} were asked for")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        while length:
            offset = start - int(self._starts[first])
            part = np.asarray(self._shards[first][offset : offset + length])
            parts.append(part)
            start, length, first = start + len(part), length - len(part), first + 1
        return np.concatenate(parts) if parts else np.empty(0, np.uint32)

    def _documents(self) -> pa.Table:
        if self._index is None:
            self._index = pq.read_table(self.folder / INDEX)
        return self._index

    def documents(self, start: int, stop: int) -> list[Place]:
        """The documents of which any token lies in [start, stop)."""
        table = self._documents()
        starts = table["start"].to_numpy()
        first = max(0, int(np.searchsorted(starts, start, side="right")) - 1)
        last = int(np.searchsorted(starts, stop, side="left"))
        return [Place(**row) for row in table.slice(first, last - first).to_pylist()]

    def find(self, document_id: str) -> tuple[int, int] | None:
        """(start, length) of a document, in tokens."""
        import pyarrow.compute as pc

        found = self._documents().filter(pc.field("id") == document_id).to_pylist()
        return (found[0]["start"], found[0]["length"]) if found else None
