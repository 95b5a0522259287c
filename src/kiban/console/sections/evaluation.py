"""The evaluation: every suite with its interval and the level of chance, and the groups of its items."""

from collections.abc import Mapping, Sequence
from typing import Any

from kiban.artifacts.manifest import Metric
from kiban.artifacts.store import Artifact
from kiban.console import charts
from kiban.console.labels import licence, measure, suite, what_it_measures
from kiban.console.sections.reading import json_of
from kiban.console.words import PROPORTIONS, UNITS, Both, between, exact, number, same


def evaluation(artifact: Artifact | None) -> dict[str, Any] | None:
    """A table of the suites for every unit (`tables`), one of the groups within suites (`groups`), what was skipped and
    why, and where the sets come from."""
    if artifact is None:
        return None
    results = json_of(artifact, "results.json") or {}
    suites = results.get("suites", {})
    order = {name: i for i, name in enumerate(suites)}
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for name, metric in sorted(artifact.metrics.items(), key=lambda pair: order.get(pair[0].split(".")[1], len(order))):
        _, suite_name, what = name.split(".", 2)
        label, measured = suite(suite_name), measure(what)
        by_unit.setdefault(_kind_of(metric.unit), []).append(
            {
                "label": Both(f"{label.ja}：{measured.ja}", f"{label.en}: {measured.en}"),
                "metric": metric,
                "chance": suites.get(suite_name, {}).get("chance"),
            }
        )
    groups = [
        {"label": suite(name), "group": group, "metric": Metric.model_validate(value), "chance": result["chance"]}
        for name, result in suites.items()
        for group, value in result["by"].items()
        if _kind_of(value["unit"]) == "proportion"  # other groups are metrics of their own
    ]
    return {
        "tables": [_table(_caption(unit), rows) for unit, rows in by_unit.items()],
        "groups": _table(Both("問題の種類ごとの内訳", "By kind of item"), groups) if groups else None,
        "skipped": [(suite(name), reason) for name, reason in results.get("skipped", {}).items()],
        "sets": [
            (
                suite(name),
                what_it_measures(name, result["measures"]),
                contamination(result.get("contamination")),
                licence(result["licence"]),
                result["source"],
            )
            for name, result in suites.items()
        ],
    }


def contamination(found: Mapping[str, Any] | None) -> Both | None:
    """How much of a suite the corpus holds; nothing where it was not looked for."""
    if found is None:
        return None
    held, items, out = (exact(found[key]) for key in ("items_held", "items", "documents_left_out"))
    return Both(
        f"{items}問のうち{held}問がコーパスにある（除いた文書は{out}）",
        f"{held} of {items} items are in the corpus; {out} documents were left out of it",
    )


def _kind_of(unit: str) -> str:
    return "proportion" if unit in PROPORTIONS else unit


def _caption(unit: str) -> Both:
    if unit == "proportion":
        return Both("正答率", "Accuracy")
    if unit == "correlation":
        return Both("順位相関", "Rank correlation")
    if unit == "bits/character":
        return Both("1字あたりのビット数（小さいほどよい）", "Bits per character (lower is better)")
    return UNITS.get(unit, same(unit))


def _table(caption: Both, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    metrics = [row["metric"] for row in rows]
    proportions = _kind_of(metrics[0].unit) == "proportion"
    top = 1.0 if proportions else 1.05 * max(max(m.value, *(m.interval or ())) for m in metrics)
    return {
        "caption": caption,
        "scale": "0–100%" if proportions else f"0–{exact(round(top, 1))}",
        "chance": any(row["chance"] is not None for row in rows),
        "rows": [
            measured(row["label"], row["metric"], top, row["chance"]) | {"group": row.get("group")} for row in rows
        ],
    }


def measured(label: Both, metric: Metric, top: float = 1.0, chance: float | None = None) -> dict[str, Any]:
    """A row: the value, its interval, and both drawn on a rail from 0 to `top`."""
    return {
        "label": label,
        "drawing": charts.whisker(metric.value, metric.interval, top, chance),
        "value": number(metric.value, metric.unit),
        "interval": between(metric.interval, metric.unit),
        "chance": number(chance, metric.unit) if chance is not None else "",
        "n": exact(metric.n) if metric.n is not None else "",
    }
