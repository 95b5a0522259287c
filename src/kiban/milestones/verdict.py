"""Verdicts: criteria held against what the manifests say."""

from collections.abc import Mapping, Sequence
from typing import Any

from kiban.artifacts.manifest import Metric
from kiban.milestones.settings import Milestone

MET, PARTLY, NOT = "met", "partly met", "not met"


def judge(milestone: Milestone, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The verdict on a milestone. A metric that was not measured is not met.

    `met`: all criteria are. `partly met`: some are. `uncertain` marks a criterion whose interval holds the bound: the
    verdict goes by the value, and says so.
    """
    criteria = []
    for criterion in milestone.criteria:
        metric = metrics.get(criterion.metric)
        row: dict[str, Any] = {
            "metric": criterion.metric,
            "bound": criterion.bound,
            "direction": "at_least" if criterion.at_least is not None else "at_most",
            "value": metric.value if metric else None,
            "unit": metric.unit if metric else None,
            "interval": list(metric.interval) if metric and metric.interval else None,
            "met": metric is not None and criterion.met_by(metric.value),
        }
        inside = (
            metric is not None
            and metric.interval is not None
            and metric.interval[0] < criterion.bound < metric.interval[1]
        )
        row["uncertain"] = bool(inside)
        criteria.append(row)
    return {"criteria": criteria, "verdict": verdict_of(criteria)}


def verdict_of(criteria: Sequence[Mapping[str, Any]]) -> str:
    met = sum(row["met"] for row in criteria)
    return MET if met == len(criteria) else PARTLY if met else NOT
