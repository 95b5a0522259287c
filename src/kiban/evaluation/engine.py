"""From a suite's items to metrics: one function a rule."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiban.artifacts.intervals import bootstrap_ratio, wilson
from kiban.artifacts.manifest import Metric
from kiban.evaluation.scoring import Scorer
from kiban.evaluation.suite import Item

SEED = 20260412  # of the bootstrap
AT_ONCE = 64  # items that are scored together


@dataclass(frozen=True)
class Result:
    """`metrics` by their name within the suite; `by` accuracy in groups of items; `rows` one for each item."""

    metrics: dict[str, Metric]
    by: dict[str, Metric]
    rows: list[dict[str, Any]]


def sample(items: Sequence[Item], limit: int | None) -> list[Item]:
    """All items, or those `limit` whose ids hash lowest: the same for every model."""
    if limit is None or len(items) <= limit:
        return list(items)
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:limit]


def choose(scorer: Scorer, items: Sequence[Item], advance: Callable[[int], None]) -> Result:
    """Accuracy: the right choice has the highest log-likelihood (`accuracy`), or the highest a character
    (`accuracy_per_character`). Minimal pairs are choices of two without a prompt."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(items), AT_ONCE):
        part = items[start : start + AT_ONCE]
        scores = iter(scorer.log_likelihoods([(item.prompt, choice) for item in part for choice in item.choices]))
        for item in part:
            nats = [next(scores)[0] for _ in item.choices]
            per_character = [n / len(choice) for n, choice in zip(nats, item.choices, strict=True)]
            rows.append(
                {
                    "id": item.id,
                    "by": item.by,
                    "choices": list(item.choices),
                    "answer": item.answer,
                    "log_likelihoods": nats,
                    "correct": _is_best(nats, item.answer),
                    "correct_per_character": _is_best(per_character, item.answer),
                }
            )
        advance(len(part))
    groups: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["by"]:
            groups[row["by"]].append(row["correct"])
    return Result(
        metrics={
            "accuracy": _accuracy([row["correct"] for row in rows]),
            "accuracy_per_character": _accuracy([row["correct_per_character"] for row in rows]),
        },
        by={name: _accuracy(hits) for name, hits in sorted(groups.items())},
        rows=rows,
    )


def bits_per_character(
    scorer: Scorer, documents: Sequence[Mapping[str, str]], advance: Callable[[int], None]
) -> Result:
    """Bits per character of documents (id, source, text): over all, and for each source. Intervals by bootstrap over
    documents."""
    rows: list[dict[str, Any]] = []
    for document in documents:
        [score] = scorer.texts([document["text"]])
        rows.append(
            {
                "id": document["id"],
                "by": document["source"],
                "bits": score.bits_per_character * score.characters,
                "characters": score.characters,
                "tokens": score.tokens,
            }
        )
        advance(1)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["by"]].append(row)
    by = {name: _ratio(group) for name, group in sorted(groups.items())}
    return Result(metrics={"all": _ratio(rows), **by}, by=by, rows=rows)


def _is_best(scores: Sequence[float], answer: int) -> bool:
    """Whether the answer's score is higher than every other: a tie is no answer."""
    return all(score < scores[answer] for i, score in enumerate(scores) if i != answer)


def _accuracy(hits: Sequence[bool]) -> Metric:
    low, high = wilson(sum(hits), len(hits))
    return Metric(value=sum(hits) / len(hits), unit="share", interval=(low, high), n=len(hits))


def _ratio(rows: Sequence[Mapping[str, Any]]) -> Metric:
    bits, characters = [row["bits"] for row in rows], [row["characters"] for row in rows]
    low, high = bootstrap_ratio(bits, characters, SEED)
    return Metric(value=sum(bits) / sum(characters), unit="bits/character", interval=(low, high), n=len(rows))
