"""The milestones: every criterion with its bound, its value and its verdict, and what the evidence proves."""

from typing import Any

from kiban.artifacts.files import read_json
from kiban.artifacts.store import Artifact
from kiban.console import charts
from kiban.console.labels import metric, verdict
from kiban.console.sections.reading import json_of
from kiban.console.words import Both, between, filled, quantity, same, yen


def milestones(artifact: Artifact | None) -> list[dict[str, Any]] | None:
    """One entry a milestone, in the order of the programme."""
    if artifact is None:
        return None
    return [
        {
            "id": row["id"],
            "title": row["title"],
            "verdict": verdict(row["verdict"]),
            "verdict_class": row["verdict"].replace(" ", "-"),
            "facts": [
                (Both("期日", "Due"), same(row["due"])),
                (Both("支払額", "Tranche"), yen(row["tranche_jpy"])),
                (Both("承認", "Approval"), _approval(artifact, row["evidence"])),
            ],
            "criteria": [_criterion(criterion) for criterion in row["criteria"]],
            "evidence": row["evidence"],
        }
        for row in json_of(artifact, "verdicts.json") or []
    ]


def _criterion(row: dict[str, Any]) -> dict[str, Any]:
    bound = quantity(row["bound"], row["unit"] or "")
    form = Both("{x}以上", "at least {x}") if row["direction"] == "at_least" else Both("{x}以下", "at most {x}")
    shown = {"metric": row["metric"], "label": metric(row["metric"]), "bound": filled(form, {"x": bound})}
    if row["value"] is None:
        unmeasured = verdict("not measured")
        return shown | {
            "value": "",
            "interval": "",
            "drawing": "",
            "verdict": unmeasured,
            "verdict_class": "unknown",
            "note": "",
        }
    interval = tuple(row["interval"]) if row["interval"] else None
    highest = max(row["value"], row["bound"], *(interval or ()))
    top = 1.0 if 0 <= highest <= 1 else 1.1 * highest
    name = "met" if row["met"] else "not met"
    return shown | {
        "value": quantity(row["value"], row["unit"]),
        "interval": between(interval, row["unit"]),
        "drawing": charts.whisker(row["value"], interval, top, bound=row["bound"]),
        "verdict": verdict(name),
        "verdict_class": name.replace(" ", "-"),
        "note": Both("区間が基準をまたぐ", "the interval holds the bound") if row["uncertain"] else "",
    }


def _approval(artifact: Artifact, evidence: str) -> Both:
    """Who signed the evidence, as its verifier finds; or why it does not verify."""
    from kiban.milestones.evidence import verify

    found = verify(read_json(artifact.path / evidence))
    if found.failure:
        return Both(f"未成立（{found.failure}）", f"not complete ({found.failure})")
    who = ", ".join(found.approvals)
    if found.demo_keys:
        return Both(f"{who}（デモ用の鍵による署名）", f"{who} (signed with demo keys)")
    return same(who)
