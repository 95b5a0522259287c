"""The questions of `bunka`, `senmon` and `shiji` are answered by knowing, not by their form.

A baseline is near chance if the 95 % Wilson interval of its accuracy holds 1/4. Both ways: what is reliably worse than
chance gives as much away to whoever turns it round. So the accuracy on 340 items must lie between 0.20 and 0.30, on 372
between 0.21 and 0.30, and on 536 between 0.22 and 0.29. A baseline that gets a share x of the items for nothing has 1/4
+ 3/4 x: at most one item in fifteen is given away.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from kiban.artifacts.intervals import wilson
from kiban.evaluation import suite as suites
from tests.evaluation.trigrams import ROOT, trigrams

CHANCE = 0.25
SIZES = {
    "bunka": (300, 20),
    "senmon": (500, 60),
    "shiji": (300, 16),
}  # at least so many items, and so many of each category

Row = dict[str, Any]
both = pytest.mark.parametrize("name", SIZES)


@cache
def rows(name: str) -> list[Row]:
    path = suites.HERE / "data" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bigrams(text: str) -> set[str]:
    return {text[i : i + 2] for i in range(len(text) - 1)}


def accuracy(items: Sequence[Row], score: Callable[[Row, str], float]) -> float:
    """Share of items whose answer scores highest; of k that tie for it, one k-th."""
    hits = 0.0
    for row in items:
        scores = [score(row, choice) for choice in row["choices"]]
        best = max(scores)
        hits += (scores[row["answer"]] == best) / scores.count(best)
    return hits / len(items)


def assert_near_chance(share: float, name: str) -> None:
    n = len(rows(name))
    low, high = wilson(round(share * n), n)
    assert low <= CHANCE <= high, f"{share:.3f}, 95 % interval {low:.3f} to {high:.3f}"


@both
def test_the_suite_reads_its_items(name: str) -> None:
    suite = suites.load(name)
    path = suite.path(None)
    assert path
    items = suites.items(suite, path)
    least, each = SIZES[name]
    assert len(items) >= least
    assert min(Counter(item.by for item in items).values()) >= each
    assert suite.card
    card = (suites.HERE / "data" / suite.card).read_text(encoding="utf-8")
    assert f"Version {suite.version}. {len(items)} questions" in card
    assert all(f"| {by} | {count} |" in card for by, count in Counter(item.by for item in items).items())
    assert all(row["source"] and row["rationale"] for row in rows(name))
    assert all(len(row["choices"]) == 4 for row in rows(name))


@both
def test_no_question_stands_twice(name: str) -> None:
    """Not even with a few characters changed: questions with the same choices share less than 0.9 of their bigrams."""
    by_choices: dict[frozenset[str], list[set[str]]] = defaultdict(list)
    for row in rows(name):
        by_choices[frozenset(row["choices"])].append(bigrams(row["question"]))
    for asked in by_choices.values():
        for i, a in enumerate(asked):
            assert all(len(a & b) < 0.9 * len(a | b) for b in asked[:i])
    assert len({row["question"] for row in rows(name)}) == len(rows(name))


@both
@pytest.mark.parametrize("position", range(4))
def test_no_position_is_right_more_often(name: str, position: int) -> None:
    assert_near_chance(sum(row["answer"] == position for row in rows(name)) / len(rows(name)), name)


@both
@pytest.mark.parametrize("sign", [1, -1], ids=["longest", "shortest"])
def test_length_tells_nothing(name: str, sign: int) -> None:
    assert_near_chance(accuracy(rows(name), lambda row, choice: sign * len(choice)), name)


@both
@pytest.mark.parametrize("sign", [1, -1], ids=["most", "least"])
@pytest.mark.parametrize("units", [set, bigrams], ids=["characters", "bigrams"])
def test_characters_shared_with_the_question_tell_nothing(
    name: str, units: Callable[[str], set[str]], sign: int
) -> None:
    def shared(row: Row, choice: str) -> float:
        return sign * len(units(choice) & units(row["question"])) / max(1, len(units(choice)))

    assert_near_chance(accuracy(rows(name), shared), name)


@pytest.mark.skipif(ROOT is None, reason="KIBAN_DATA is not set: no real text to train on")
@both
@pytest.mark.parametrize("per_character", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("asked", [False, True], ids=["alone", "after the question"])
def test_a_trigram_model_of_real_text_does_not_know(name: str, asked: bool, per_character: bool) -> None:
    model = trigrams()
    assert model.nats("", "日本") > model.nats("", "本日日") > -60  # it has learnt something

    def likely(row: Row, choice: str) -> float:
        nats = model.nats(row["question"] + "\n" if asked else "", choice)
        return nats / len(choice) if per_character else nats

    assert_near_chance(accuracy(rows(name), likely), name)


def learnt(items: Sequence[Row], folds: int = 10) -> float:
    """Accuracy of a linear model over the characters of the choices and their length, on items it was not trained on.

    Items that share choices lie in one fold: else each would give away by elimination what the others' answer is.
    """
    characters = sorted({c for row in items for choice in row["choices"] for c in choice})
    index = {c: i for i, c in enumerate(characters)}
    x_NCF = np.zeros((len(items), 4, len(characters) + 1), dtype=np.float32)
    for n, row in enumerate(items):
        for c, choice in enumerate(row["choices"]):
            for character in choice:
                x_NCF[n, c, index[character]] = 1
            x_NCF[n, c, -1] = len(choice) / 10
    right_N = np.array([row["answer"] for row in items])
    sets = sorted({frozenset(row["choices"]) for row in items}, key=sorted)
    order = np.random.default_rng(0).permutation(len(sets))
    fold_of = {choices: order[i] % folds for i, choices in enumerate(sets)}
    fold_N = np.array([fold_of[frozenset(row["choices"])] for row in items])
    hits = 0.0
    for fold in range(folds):
        train, held = fold_N != fold, fold_N == fold
        x, one_hot = x_NCF[train], np.eye(4, dtype=np.float32)[right_N[train]]
        w = np.zeros(x.shape[-1], dtype=np.float32)
        for _ in range(60):
            logits = x @ w
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            w += 2 * (np.einsum("nc,ncf->f", one_hot - p, x) / len(x) - 1e-3 * w)
        logits = np.round(x_NCF[held] @ w, 5)
        best = logits == logits.max(1, keepdims=True)
        hits += float((best[np.arange(len(best)), right_N[held]] / best.sum(1)).sum())
    return hits / len(items)


@both
def test_a_classifier_learns_nothing_from_the_choices(name: str) -> None:
    assert_near_chance(learnt(rows(name)), name)


def test_the_classifier_learns_what_there_is_to_learn() -> None:
    marked = [
        {**row, "choices": [c + ("者" if i == row["answer"] else "物") for i, c in enumerate(row["choices"])]}
        for row in rows("bunka")
    ]
    assert learnt(marked) > 0.9
