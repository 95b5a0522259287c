"""The page of a leaderboard: scores of checkpoints by the tokens that they were trained on, and the table of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kiban.artifacts.files import write_atomic
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import count
from kiban.console import charts
from kiban.console.labels import measure, suite
from kiban.console.page import render
from kiban.console.words import Both, between, number

# The unit of the axis: the largest of which the longest run has twenty.
UNITS = (
    (10**9, Both("10億トークン", "billions of tokens")),
    (10**6, Both("百万トークン", "millions of tokens")),
    (10**3, Both("千トークン", "thousands of tokens")),
    (1, Both("トークン", "tokens")),
)


def write(found: Mapping[str, Any], to: Path) -> Path:
    """Writes the page over what `evaluation.results.leaderboard` found. It opens offline."""
    trained = [row["tokens"] for row in found["rows"] if row["tokens"] is not None]
    size, unit = next(((size, unit) for size, unit in UNITS if max(trained, default=0) >= 20 * size), UNITS[-1])
    heading = Both("リーダーボード", "Leaderboard")
    content = {
        "title": heading,
        "heading": heading,
        "suites": [suite(name) for name in found["suites"]],
        "charts": [chart for name in found["suites"] if (chart := _chart(name, found["rows"], size))],
        "unit": unit,
        "rows": [
            (
                row["model"],
                count(row["tokens"]) if row["tokens"] is not None else "",
                [_score(row["scores"].get(name)) for name in found["suites"]],
            )
            for row in found["rows"]
        ],
        "differing": [suite(name) for name in found["not_comparable"]],
    }
    write_atomic(to, render("leaderboard.html.j2", content, ("report.js",)))
    return to


def _metric(score: Mapping[str, Any]) -> Metric:
    return Metric.model_validate({key: score[key] for key in Metric.model_fields if key in score})


def _score(score: Mapping[str, Any] | None) -> tuple[Both | str, Both | str]:
    if score is None:
        return "", ""
    metric = _metric(score)
    return number(metric.value, metric.unit), between(metric.interval, metric.unit)


def _chart(name: str, rows: Sequence[Mapping[str, Any]], size: int) -> tuple[str, Both, Markup] | None:
    """The suite's score and its interval over the tokens; nothing with fewer than two different numbers of tokens."""
    at: dict[int, Metric] = {}
    for row in rows:
        if row["tokens"] is not None and name in row["scores"]:
            at[row["tokens"]] = _metric(row["scores"][name])
    if len(at) < 2:
        return None
    metrics = list(at.values())
    lines: list[tuple[str, Sequence[float]]] = []
    if all(metric.interval for metric in metrics):
        lines += [("raw", [metric.interval[end] for metric in metrics if metric.interval]) for end in (0, 1)]
    lines.append(("smooth", [metric.value for metric in metrics]))
    what, label = next(row["scores"][name]["metric"] for row in rows if name in row["scores"]), suite(name)
    caption = Both(f"{label.ja}：{measure(what).ja}", f"{label.en}: {measure(what).en}")
    identifier = f"chart-{name}"
    return identifier, caption, charts.line_chart([tokens / size for tokens in at], lines, 160, identifier)
