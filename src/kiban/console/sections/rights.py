"""What the whole may be used for, and what the licences ask to be printed."""

from collections.abc import Sequence
from typing import Any

from kiban.artifacts.rights import meet
from kiban.artifacts.store import Artifact
from kiban.console.labels import licence, obligation, residency, uses
from kiban.console.words import Both


def rights(sources: Sequence[Artifact]) -> dict[str, Any] | None:
    """The meet of the rights of all sources, the attributions owed, and the other obligations by source."""
    if not sources:
        return None
    whole = meet(source.rights for source in sources)
    others: dict[str, list[str]] = {}
    for source in sources:
        for duty in source.rights.obligations:
            if not duty.startswith("attribution"):
                others.setdefault(duty, []).append(source.settings["name"])
    return {
        "uses": uses(whole.uses),
        "residency": [residency(code) for code in sorted(whole.residency)],
        "expires": whole.expires,
        "attributions": [_attribution(source) for source in sources if _owes_attribution(source)],
        "others": [_with_sources(obligation(duty), names) for duty, names in sorted(others.items())],
    }


def _owes_attribution(source: Artifact) -> bool:
    return any(duty.startswith("attribution") for duty in source.rights.obligations)


def _attribution(source: Artifact) -> Both:
    name, partner, terms = source.settings["name"], source.settings["partner"], licence(source.settings["licence"])
    asked = [duty.partition(":")[2] for duty in sorted(source.rights.obligations) if duty.startswith("attribution:")]
    who = "; ".join(text for text in asked if text != name)
    return Both(
        f"{name}{'、' + who if who else ''}（提供：{partner}、ライセンス：{terms.ja}）",
        f"{name}{', ' + who if who else ''} (from {partner}, licence {terms.en})",
    )


def _with_sources(duty: Both, names: Sequence[str]) -> Both:
    return Both(f"{duty.ja}（対象：{'、'.join(names)}）", f"{duty.en} (for {', '.join(names)})")
