"""How much of a set the corpus holds, by the corpus stage's own rule (see corpus/decontamination.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.evaluation.suite import Item

READ_AT_ONCE = 4096  # documents


def report(corpus: Path, suites: Mapping[str, Sequence[Item]]) -> dict[str, dict[str, Any]]:
    """For each suite: how many of its items a kept document of the corpus holds (`items_held`, at least), how many
    documents that is, and how many documents the corpus left out because they held one.

    Raises:
        KibanError: if `corpus` is no corpus.
    """
    import pyarrow.dataset
    import pyarrow.parquet as pq

    from kiban.corpus.decontamination import contamination, grams_of
    from kiban.corpus.normalise import normalise

    if not (corpus / "shards").is_dir() or not (corpus / "contaminated.parquet").is_file():
        raise KibanError(
            f"{corpus}: no corpus (it has shards/ and contaminated.parquet); give the folder that one was made in, or "
            "make it again if an older Kiban made it"
        )
    suites_of: dict[str, set[str]] = {}
    items_of: dict[str, dict[str, set[str]]] = {}
    for name, items in suites.items():
        for item in items:
            for text in _texts(item):
                suites_of.setdefault(text, set()).add(name)
                items_of.setdefault(text, {}).setdefault(name, set()).add(item.id)
    held: dict[str, set[str]] = {name: set() for name in suites}
    documents = dict.fromkeys(suites, 0)
    grams = grams_of(suites_of)
    spelt = {_folded(text): text for text in suites_of}
    shards = pyarrow.dataset.dataset(sorted((corpus / "shards").iterdir()), format="parquet")
    for batch in shards.to_batches(columns=["text"], batch_size=READ_AT_ONCE):
        shares, which = contamination(normalise(batch.column("text")), grams)
        for row in shares.nonzero()[0]:
            found = spelt.get(grams.text(which[row]), "")
            for name, ids in items_of.get(found, {}).items():
                held[name] |= ids
                documents[name] += 1
    left_out: dict[str, set[str]] = {name: set() for name in suites}
    for row in pq.read_table(corpus / "contaminated.parquet", columns=["id", "text"]).to_pylist():
        for name in suites_of.get(spelt.get(row["text"], ""), ()):
            left_out[name].add(row["id"])
    return {
        name: {
            "items_held": len(held[name]),
            "items": len(items),
            "documents": documents[name],
            "documents_left_out": len(left_out[name]),
        }
        for name, items in suites.items()
    }


def _texts(item: Item) -> list[str]:
    """What of an item must not be in a corpus: the question, or the texts of a pair."""
    if item.content or not item.choices:
        return [item.content or item.prompt]
    return [item.prompt + choice for choice in item.choices]


def _folded(text: str) -> str:
    import pyarrow as pa

    from kiban.corpus.normalise import normalise

    return str(normalise(pa.array([text], pa.string()))[0])
