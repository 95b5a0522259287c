"""Tokens to train on, without a tokenizer: a folder of packed tokens as `kiban` writes it, of a made-up language."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.files import write_json
from kiban.tokenizer.packing import INDEX, SCHEMA, TOKENS, TokenStore

SPECIAL = 16  # ids below are left out: peers give the padding token's embedding no gradient


def made_up(folder: Path, vocabulary: int, total: int, seed: int = 0) -> TokenStore:
    """Frequencies as in text (Zipf's law), and after nine tokens in ten one of four successors: a loss can fall."""
    rng = np.random.default_rng(seed)
    words = vocabulary - SPECIAL
    ranks = rng.permutation(words)
    frequency = 1.0 / np.arange(1, words + 1)
    draws = ranks[rng.choice(words, total, p=frequency / frequency.sum())]
    successors = ranks[rng.choice(words, (words, 4), p=frequency / frequency.sum())]
    follows, which = rng.random(total) < 0.9, rng.integers(0, 4, total)
    tokens = draws.copy()
    for i in range(1, total):
        if follows[i]:
            tokens[i] = successors[tokens[i - 1], which[i]]
    folder.mkdir(parents=True, exist_ok=True)
    (tokens + SPECIAL).astype("<u4").tofile(folder / "shard-00000.bin")
    rows = [["made-up"], ["benchmarks"], [0], [total]]
    columns = [pa.array(row, f.type) for row, f in zip(rows, SCHEMA, strict=True)]
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / INDEX)
    content = {"total": total, "documents": 1, "vocabulary": vocabulary, "tokenizer": "none", "shards": [total]}
    write_json(folder / TOKENS, content | {"version": 1})
    return TokenStore.open(folder)
