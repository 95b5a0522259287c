"""`index.html` of an evaluation: the scores, and behind each of them every item. One file that opens offline."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kiban.artifacts.files import write_atomic
from kiban.artifacts.manifest import Metric
from kiban.console.labels import licence, measure, suite, what_it_measures
from kiban.console.page import render
from kiban.console.sections.evaluation import contamination, measured
from kiban.console.words import Both, exact

FIELDS = (
    "id",
    "by",
    "prompt",
    "choices",
    "answer",
    "log_likelihoods",
    "references",
    "value",
    "written",
    "failed",
    "bits",
)


def write(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], to: Path) -> Path:
    """Writes the page over what `kiban eval run` found. Nothing in it comes from elsewhere or goes anywhere."""
    model = results["model"]["name"]
    content = {
        "title": Both(f"{model}：評価", f"{model}: evaluation"),
        "heading": model,
        "model": model,
        "suites": [_suite(name, found) for name, found in results["suites"].items()],
        "skipped": [(suite(name), why) for name, why in results["skipped"].items()],
        "compared": _compared(results.get("compared")),
        "items": Markup(_embedded(rows)),
    }
    page = render("evaluation.html.j2", content, ("report.js", "evaluation.js"))
    write_atomic(to, page)
    return to


def _suite(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {key: Metric.model_validate(value) for key, value in found["metrics"].items()}
    return {
        "name": name,
        "label": suite(name),
        "measures": what_it_measures(name, found["measures"]),
        "licence": licence(found["licence"]),
        "source": found["source"],
        "version": found["version"],
        "notes": found["notes"],
        "ways": found["ways"],
        "spread": found["spread"],
        "rows": [
            measured(measure(key), metric, _top(metric), found["chance"] if key == found["headline"] else None)
            for key, metric in metrics.items()
        ],
        "groups": [
            measured(Both(key, key), metric := Metric.model_validate(value), _top(metric), found["chance"])
            for key, value in found["by"].items()
            if key not in metrics
        ],
        "held": contamination(found["contamination"]),
    }


def _top(metric: Metric) -> float:
    return 1.0 if metric.unit in ("share", "correlation") else 1.05 * max(metric.value, *(metric.interval or (0, 0)))


def _compared(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    rows = [
        [
            f"{row['first']:.4f}",
            f"{row['second']:.4f}",
            f"{row['difference']:+.4f}",
            f"{row['interval'][0]:+.4f} … {row['interval'][1]:+.4f}",
            f"{row['p_adjusted']:.3g}",
            exact(row["n"]),
        ]
        for row in found["suites"].values()
    ]
    return {"with": found["with"], "rows": list(zip(map(suite, found["suites"]), rows, strict=True))}


def _embedded(rows: Sequence[Mapping[str, Any]]) -> str:
    """The items by suite, as JSON that no text in it can leave."""
    by_suite: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kept = {key: _short(row[key]) for key in FIELDS if key in row}
        by_suite.setdefault(row["suite"], []).append(kept | {"score": row["score"], "way": row["way"]})
    text = json.dumps(by_suite, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
