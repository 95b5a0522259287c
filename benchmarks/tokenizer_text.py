"""The text on which tokenizers are measured: the open archives of `recipes/open-text`, a part of it held back.

What is held back is chosen before any training: Aozora by author, laws by title (the same law stands in two archives),
all else by near-duplicate cluster (MinHash over characters, estimated Jaccard of 0.7 or more).
"""

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kiban.corpus.archives import entries
from kiban.corpus.documents import Document
from kiban.corpus.duplicates import find, rank
from kiban.corpus.minhash import fingerprints, signatures
from kiban.corpus.readers import FORMATS
from kiban.corpus.readers.member import Member

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = {"d365"}  # documentation of products
LAWS = {"law-html", "law-xml"}
DOMAINS = {"aozora": {"aozora"}, "technical": {"d365", "opentelemetry", "plateau", "react", "vue", "vite"}, "law": LAWS}
SHARE = 0.03  # held back, by hash of the group


def documents(data: Path, folder: Path) -> pa.Table:
    """Columns source, text, held: read once, kept in `folder`."""
    kept = folder / "text.parquet"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        table = _read(data)
        pq.write_table(table, kept.with_suffix(".part"), compression="zstd")
        kept.with_suffix(".part").rename(kept)
    return pq.read_table(kept)


def training(table: pa.Table, without: set[str]) -> list[str]:
    """The texts that are not held back, without those of some sources."""
    wanted = pc.and_(pc.invert(table["held"]), pc.invert(pc.is_in(table["source"], pa.array(sorted(without) or [""]))))
    return table.filter(wanted)["text"].to_pylist()


def held_back(table: pa.Table, megabytes: float = 2.0) -> dict[str, list[str]]:
    """Texts by domain, of each at most so many MB of UTF-8."""
    found: dict[str, list[str]] = {}
    for name, sources in DOMAINS.items():
        texts = table.filter(pc.and_(table["held"], pc.is_in(table["source"], pa.array(sorted(sources)))))["text"]
        ends = np.cumsum(pc.binary_length(texts).to_numpy())
        found[name] = texts.slice(0, int(np.searchsorted(ends, megabytes * 1e6)) + 1).to_pylist()
    return found


def _read(data: Path) -> pa.Table:
    recipe = tomllib.loads((ROOT / "recipes" / "open-text" / "kiban.toml").read_text(encoding="utf-8"))
    rows: dict[str, list[str]] = {"source": [], "text": [], "group": []}
    for source in recipe["source"]:
        reader = FORMATS[source["format"]]
        by = "author" if source["name"] == "aozora" else "title" if source["name"] in LAWS else "cluster"
        location = Path(source["path"].replace("$KIBAN_DATA", str(data)))
        for entry in entries(location, reader.endings, source["name"]):
            if entry.stream is None or not entry.name.lower().endswith(reader.endings):
                continue
            try:
                member = Member(entry.name, entry.stream.read(2**27))
                for item in reader.read(member, source.get("encoding", reader.encoding)):
                    if isinstance(item, Document) and item.text:
                        rows["source"].append(source["name"])
                        rows["text"].append(item.text)
                        rows["group"].append({"author": item.author, "title": item.title}.get(by, ""))
            except ValueError:
                continue  # what is not of its encoding is the corpus' affair
    table = pa.table(rows)
    texts = table["text"].combine_chunks()
    characters = pc.utf8_length(texts).to_numpy()
    ids = np.array([hashlib.sha256(text.encode()).hexdigest().encode() for text in rows["text"]])
    ranked = rank(fingerprints(texts), characters, ids)
    signs = signatures(texts, 126)[ranked.documents[ranked.unique]]
    alike = find(ranked, signs, bands=14, threshold=0.8, loose=0.7)
    cluster = [ids[i].decode() for i in alike.cluster]
    named = table["group"].to_pylist()
    groups = [f"{name}" if name else f"cluster {c}" for name, c in zip(named, cluster, strict=True)]
    held = [int.from_bytes(hashlib.sha256(g.encode()).digest()[:4], "big") < SHARE * 2**32 for g in groups]
    return table.drop_columns("group").append_column("held", pa.array(held))
