"""The corpus: what came in, what was kept, what was dropped and why, source by source."""

from collections.abc import Sequence
from typing import Any

from kiban.artifacts.store import Artifact
from kiban.console import charts
from kiban.console.labels import category, licence, obligation, reason, uses
from kiban.console.sections.reading import json_of
from kiban.console.words import Both, exact, same, short

SAMPLES_PER_REASON = 3
DETAIL_CHARACTERS = 160


def corpus(artifact: Artifact | None, sources: Sequence[Artifact]) -> dict[str, Any] | None:
    """Documents and characters in and kept, what was dropped and why, what was masked, source by source."""
    if artifact is None:
        return None
    value = {name.removeprefix("corpus."): metric.value for name, metric in artifact.metrics.items()}
    flow = [
        (Both("学習用に採用", "kept for training"), "kept", value.get("documents_kept", 0.0)),
        (Both("評価用に取り置き", "held back for evaluation"), "held", value.get("documents_held_back", 0.0)),
        *((reason(name), "dropped", count) for name, count in _ranked(value, "dropped.")),
    ]
    documents_in = value.get("documents_in", 0.0)
    summary = (json_of(artifact, "summary.json") or {}).get("sources", {})
    return {
        "documents_in": short(documents_in),
        "documents_kept": short(value.get("documents_kept", 0.0)),
        "characters_in": short(value.get("characters_in", 0.0)),
        "characters_kept": short(value.get("characters_kept", 0.0)),
        "flow": [(label, charts.bar(count / (documents_in or 1.0), kind), exact(count)) for label, kind, count in flow],
        "masked": [(category(name), same(exact(count))) for name, count in _ranked(value, "masked.")],
        "sources": [_source(source, summary) for source in sources],
        "samples": _samples_of_ledger(artifact),
    }


def _ranked(values: dict[str, float], prefix: str) -> list[tuple[str, float]]:
    found = [(name.removeprefix(prefix), value) for name, value in values.items() if name.startswith(prefix) and value]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _source(artifact: Artifact, summary: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of sources. A source that is not in the corpus yet has no counts."""
    settings, rights = artifact.settings, artifact.rights
    counts = summary.get(settings["name"])
    return {
        "name": settings["name"],
        "partner": settings["partner"],
        "licence": licence(settings["licence"]),
        "uses": uses(rights.uses),
        "expires": rights.expires,
        "obligations": [obligation(name) for name in sorted(rights.obligations)],
        "documents": f"{exact(counts['documents_kept'])} / {exact(counts['documents_in'])}" if counts else "",
        "share": charts.bar(counts["documents_kept"] / (counts["documents_in"] or 1), "kept") if counts else "",
        "characters_kept": short(counts["characters_kept"]) if counts else "",
    }


def _samples_of_ledger(artifact: Artifact) -> list[dict[str, Any]]:
    """The first few dropped documents of every reason. Reads the ledger's reasons whole, and no more of the rest."""
    if "ledger.parquet" not in artifact.manifest.files:
        return []
    import pyarrow.parquet as pq

    columns = ["source", "title", "uri", "reason", "score", "detail", "characters"]
    taken: dict[str, list[dict[str, Any]]] = {}
    for batch in pq.ParquetFile(artifact.path / "ledger.parquet").iter_batches(columns=columns):
        for i, name in enumerate(batch["reason"].to_pylist()):
            rows = taken.setdefault(name, [])
            if len(rows) < SAMPLES_PER_REASON:
                rows += batch.slice(i, 1).to_pylist()
    return [
        {
            "reason": reason(name),
            "title": row["title"] or row["uri"] or "",
            "source": row["source"],
            "score": exact(row["score"] or 0.0),
            "detail": (row["detail"] or "")[:DETAIL_CHARACTERS],
            "characters": exact(row["characters"] or 0),
        }
        for name in sorted(taken)
        for row in taken[name]
    ]
