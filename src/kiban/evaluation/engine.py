"""From a suite's items to metrics: one function a rule."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kiban.artifacts.intervals import bootstrap_mean, bootstrap_ratio, wilson
from kiban.artifacts.manifest import Metric
from kiban.evaluation import matching, register, statistics
from kiban.evaluation.answers import Advance, Answers
from kiban.evaluation.endpoint import ask_by_letter, letter_of
from kiban.evaluation.suite import Item, Suite

SEED = 20260412  # of the bootstrap

HEADLINE = {
    "pairs": "accuracy",
    "choice": "accuracy",
    "scale": "spearman",
    "generate": "exact_match",
    "register": "kept",
    "text": "all",
}


@dataclass(frozen=True)
class Result:
    """`metrics` by their name within the suite; `by` the headline metric in groups of items; `rows` one for each item,
    each with what it adds to the headline metric (`score`); `notes` what must be said beside the score."""

    metrics: dict[str, Metric]
    by: dict[str, Metric]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def score(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    rules: dict[str, Callable[..., Result]] = {
        "pairs": choose if answers.model.scores else choose_by_letter,
        "choice": choose if answers.model.scores else choose_by_letter,
        "scale": scale,
        "generate": generate,
        "register": keep_register,
        "text": bits_per_character,
    }
    return rules[suite.rule](suite, items, answers, advance)


def needs_scores(suite: Suite) -> bool:
    """Whether the rule cannot do without log-likelihoods."""
    return suite.rule in ("scale", "text")


def choose(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """The right choice has the highest log-likelihood (`accuracy`), the highest a character (`accuracy_per_character`),
    or gains the most by the prompt (`accuracy_unconditional`: less its log-likelihood without one, as acc_mutual_info
    of lm-evaluation-harness). Minimal pairs are choices of two."""
    unconditional = suite.rule == "choice"
    groups = []
    for item in items:
        tail = item.prompt[len(item.prompt.rstrip()) :]
        groups.append([(item.asked, choice) for choice in item.choices])
        groups[-1] += [("", tail + choice) for choice in item.choices] if unconditional else []
    rows: list[dict[str, Any]] = []
    for item, scores in zip(items, answers.log_likelihoods(groups, advance), strict=True):
        k = len(item.choices)
        nats = [n for n, _ in scores[:k]]
        per_character = [n / len(choice) for n, choice in zip(nats, item.choices, strict=True)]
        row: dict[str, Any] = {
            "id": item.id,
            "by": item.by,
            "prompt": item.prompt,
            "choices": list(item.choices),
            "answer": item.answer,
            "log_likelihoods": nats,
            "correct": _is_best(nats, item.answer),
            "correct_per_character": _is_best(per_character, item.answer),
        }
        if unconditional:
            gains = [n - without for n, (without, _) in zip(nats, scores[k:], strict=True)]
            row["correct_unconditional"] = _is_best(gains, item.answer)
        row["score"] = float(row["correct"])
        rows.append(row)
    metrics = {
        "accuracy" + name.removeprefix("correct"): _accuracy([row[name] for row in rows])
        for name in ("correct", "correct_per_character", "correct_unconditional")
        if name in rows[0]
    }
    return Result(metrics | _balanced(items, rows), _by(rows, _accuracy_of), rows)


def choose_by_letter(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """For a model that only writes: the choices get letters, in an order drawn by the item's id, and it names one. An
    answer that names none, or several, is no wrong answer but none: it is counted apart."""
    asked = [ask_by_letter(item) for item in items]
    written = answers.generate([prompt for prompt, _ in asked], 16, (), advance)
    rows: list[dict[str, Any]] = []
    for item, (_, order), text in zip(items, asked, written, strict=True):
        letter = letter_of(text, len(order))
        chosen = None if letter is None else order[letter]
        row: dict[str, Any] = {"id": item.id, "by": item.by, "prompt": item.prompt, "choices": list(item.choices)}
        correct = chosen == item.answer
        rows.append(row | {"answer": item.answer, "written": text, "chosen": chosen, "correct": correct})
        rows[-1]["score"] = None if chosen is None else float(correct)
    answered = [row for row in rows if row["score"] is not None]
    notes = ["answers by letter, without log-likelihoods: not comparable with scores by log-likelihood"]
    metrics = {"answered": _accuracy([row["score"] is not None for row in rows])}
    if answered:
        metrics = {"accuracy": _accuracy([row["correct"] for row in answered])} | metrics
    if len(answered) < len(rows):
        notes.append(f"{len(rows) - len(answered)} of {len(rows)} answers name no choice, and are not in the accuracy")
    return Result(metrics, _by(answered, _accuracy_of), rows, notes)


def scale(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """Spearman's correlation of people's figures with the mean of the choices, weighted by their probabilities."""
    values = [float(choice) for choice in suite.choices]
    found = answers.log_likelihoods([[(item.asked, choice) for choice in item.choices] for item in items], advance)
    rows: list[dict[str, Any]] = []
    for item, scores in zip(items, found, strict=True):
        nats = np.array([n for n, _ in scores])
        weights = np.exp(nats - nats.max())
        predicted = float((weights * values).sum() / weights.sum())
        row: dict[str, Any] = {
            "id": item.id,
            "by": item.by,
            "prompt": item.prompt,
            "value": item.value,
            "score": predicted,
        }
        rows.append(row | {"choices": list(item.choices), "log_likelihoods": nats.tolist()})
    r = statistics.spearman([row["score"] for row in rows], [row["value"] for row in rows])
    interval = statistics.spearman_interval(r, len(rows))
    return Result({"spearman": Metric(value=r, unit="correlation", interval=interval, n=len(rows))}, {}, rows)


def generate(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """`exact_match`: what was written, without white space around it, is the first reference (as lm-evaluation-harness
    has it). `exact_match_any`: normalised, it is any reference. `f1`: over characters, the best of the references."""
    written = answers.generate([item.asked.rstrip() for item in items], suite.max_tokens, suite.stop, advance)
    rows: list[dict[str, Any]] = []
    for item, text in zip(items, written, strict=True):
        row: dict[str, Any] = {"id": item.id, "by": item.by, "prompt": item.prompt, "references": list(item.references)}
        row["written"] = text
        if suite.extract == "number":
            row["score"] = float(matching.last_number(text) == item.references[0])
        else:
            row["score"] = float(text.strip() == item.references[0].strip())
            wanted = [matching.normalised(reference) for reference in item.references]
            row["any"] = float(matching.normalised(text) in wanted)
            row["f1"] = max(matching.character_f1(text, reference) for reference in item.references)
        rows.append(row)
    metrics = {"exact_match": _accuracy([row["score"] == 1 for row in rows])}
    if suite.extract is None:
        metrics["exact_match_any"] = _accuracy([row["any"] == 1 for row in rows])
        f1 = [row["f1"] for row in rows]
        metrics["f1"] = Metric(value=float(np.mean(f1)), unit="share", interval=bootstrap_mean(f1, SEED), n=len(f1))
    return Result(metrics, _by(rows, _accuracy_of), rows)


def keep_register(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """The share of answers that pass every check of the register asked for, and of each check."""
    written = answers.generate([item.asked.rstrip() for item in items], suite.max_tokens, suite.stop, advance)
    rows: list[dict[str, Any]] = []
    checks: dict[str, list[bool]] = defaultdict(list)
    for item, text in zip(items, written, strict=True):
        failed = register.failures(text, item.by, item.prompt)
        for name in register.CHECKS[item.by]:
            checks[f"{item.by}_{name}"].append(name not in failed)
        row: dict[str, Any] = {"id": item.id, "by": item.by, "prompt": item.prompt, "written": text, "failed": failed}
        rows.append(row | {"score": float(not failed)})
    metrics = {"kept": _accuracy([not row["failed"] for row in rows])}
    metrics |= {name: _accuracy(passed) for name, passed in sorted(checks.items())}
    return Result(metrics, _by(rows, _accuracy_of), rows)


def bits_per_character(suite: Suite, items: Sequence[Item], answers: Answers, advance: Advance) -> Result:
    """Bits per character of texts: over all, and for each group. Intervals by bootstrap over texts."""
    rows: list[dict[str, Any]] = []
    for item, found in zip(items, answers.texts([item.prompt for item in items], advance), strict=True):
        bits = found.bits_per_character * found.characters
        row: dict[str, Any] = {
            "id": item.id,
            "by": item.by,
            "prompt": item.prompt[:400],
            "bits": bits,
            "characters": found.characters,
        }
        rows.append(row | {"tokens": found.tokens, "score": found.bits_per_character})
    by = _by(rows, _ratio)
    return Result({"all": _ratio(rows), **by}, by, rows)


def _is_best(scores: Sequence[float], answer: int) -> bool:
    """Whether the answer's score is higher than every other: a tie is no answer."""
    return all(score < scores[answer] for i, score in enumerate(scores) if i != answer)


def _balanced(items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """The mean of the accuracies on the items of each label, where all items have the same labels: whoever always gives
    the most frequent one gets no more than chance."""
    if len({item.choices for item in items}) > 1 or len({item.answer for item in items}) < 2:
        return {}
    by_label: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_label[row["answer"]].append(row["score"])
    value = float(np.mean([np.mean(hits) for hits in by_label.values()]))
    # The variance of a mean of independent means.
    half = 1.96 * float(np.sqrt(sum(np.var(hits) / len(hits) for hits in by_label.values()))) / len(by_label)
    interval = (max(0.0, value - half), min(1.0, value + half))
    return {"balanced_accuracy": Metric(value=value, unit="share", interval=interval, n=len(rows))}


def _by(rows: Sequence[dict[str, Any]], metric: Callable[[Sequence[dict[str, Any]]], Metric]) -> dict[str, Metric]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["by"]:
            groups[row["by"]].append(row)
    return {name: metric(group) for name, group in sorted(groups.items())}


def _accuracy_of(rows: Sequence[dict[str, Any]]) -> Metric:
    return _accuracy([row["score"] == 1 for row in rows])


def _accuracy(hits: Sequence[bool]) -> Metric:
    return Metric(value=sum(hits) / len(hits), unit="share", interval=wilson(sum(hits), len(hits)), n=len(hits))


def _ratio(rows: Sequence[dict[str, Any]]) -> Metric:
    bits, characters = [row["bits"] for row in rows], [row["characters"] for row in rows]
    interval = bootstrap_ratio(bits, characters, SEED)
    return Metric(value=sum(bits) / sum(characters), unit="bits/character", interval=interval, n=len(rows))
