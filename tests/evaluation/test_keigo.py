"""The pairs of `keigo` are answered by knowing who speaks of whom to whom, not by their form.

A baseline that has a share x of the pairs for nothing, and guesses the others, is right in 1/2 + x/2 of them. It is
near chance here if the 95 % Wilson interval of its accuracy meets [0.45, 0.55]: at most one pair in ten given away, so
that at least nine in ten must be known. The band is that wide since not every mistake is right elsewhere (a doubled
honorific never is), and since how often a form is used carries grammar.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from kiban.artifacts.intervals import wilson
from kiban.evaluation import suite as suites
from kiban.evaluation.sets import keigo
from tests.evaluation.trigrams import ROOT, trigrams

Row = dict[str, str]
BAND = (0.45, 0.55)


@cache
def rows() -> list[Row]:
    return keigo.rows()


def accuracy(score: Callable[[Row, str], float]) -> float:
    """Share of pairs whose good sentence scores higher; ties are half right."""
    hits = 0.0
    for row in rows():
        good, bad = (round(score(row, row[key]), 9) for key in ("good", "bad"))
        hits += 0.5 if good == bad else good > bad
    return hits / len(rows())


def assert_near_chance(share: float) -> None:
    low, high = wilson(round(share * len(rows())), len(rows()))
    assert low <= BAND[1] and BAND[0] <= high, f"{share:.3f}, 95 % interval {low:.3f} to {high:.3f}"


def test_the_file_is_what_the_tables_give() -> None:
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    assert (suites.HERE / "data" / "keigo.jsonl").read_bytes() == written.encode()


def test_the_suite_is_whole_and_its_card_says_so() -> None:
    suite = suites.load("keigo")
    path = suite.path(None)
    assert path and suite.card
    items = suites.items(suite, path)
    by_hand = sum("-hand-" in item.id for item in items)
    assert len(items) >= 1200 and by_hand >= 300
    card = (suites.HERE / "data" / suite.card).read_text(encoding="utf-8")
    assert f"Version {suite.version}. {len(items)} pairs, {by_hand} of them by hand" in card
    assert all(f"| {by} | {count} |" in card for by, count in Counter(item.by for item in items).items())
    assert all(row["source"] and row["rationale"].endswith("。") for row in rows())
    assert all("|" not in "".join(row.values()) and "{" not in "".join(row.values()) for row in rows())


def test_pairs_are_minimal_and_none_is_everyday_talk() -> None:
    """Ones that are answered by the situation alone may differ more. Those of a few characters stand in any corpus."""
    for row in rows():
        common = sum((Counter(row["good"]) & Counter(row["bad"])).values())
        assert row["context"] or common >= 0.5 * len(row["bad"]), f"{row['id']}: {row['good']} / {row['bad']}"
        assert min(len(row["good"]), len(row["bad"])) >= 9


def test_what_the_guidelines_call_established_is_nowhere_wrong() -> None:
    """Of couples, what is wrong for one person is right for the other: there the form is not what is wrong."""
    established = ("お召し上がり", "お見えにな", "お伺いし", "お伺いいた", "お伺い申し上げ", "なっていらっしゃ")
    for row in (row for row in rows() if row["id"][-1] not in "ab"):
        bad = row["bad"].replace("お召し上がりし", "")  # with する it is humble, and of a guest
        assert not any(form in bad and form not in row["good"] for form in established), row["id"]


def test_most_forms_are_right_as_often_as_wrong() -> None:
    """In couples, what is good in one pair is bad in the other: at least three pairs in four."""
    partner = {row["id"][:-1]: row for row in rows() if row["id"].endswith("b")}
    coupled = [row for row in rows() if row["id"].endswith("a") and row["id"][:-1] in partner]
    assert 2 * len(coupled) >= 0.75 * len(rows())
    for row in coupled:
        mirror = partner[row["id"][:-1]]
        lengths = len(row["good"]) - len(row["bad"]), len(mirror["bad"]) - len(mirror["good"])
        assert lengths[0] == lengths[1] or row["phenomenon"] == "「お」と「ご」", row["id"]


def script(character: str) -> str:
    for first, last in ("ぁゟ", "゠ヿ", "一鿿"):
        if first <= character <= last:
            return first
    return ""


def words(text: str) -> int:
    """Runs of one script: hiragana, katakana, kanji, others. About as many as there are words."""
    return 1 + sum(script(a) != script(b) for a, b in pairwise(text))


@pytest.mark.parametrize("sign", [1, -1], ids=["longer", "shorter"])
@pytest.mark.parametrize("per_word", [False, True], ids=["whole", "characters a word"])
def test_length_tells_nothing(sign: int, per_word: bool) -> None:
    assert_near_chance(accuracy(lambda row, text: sign * len(text) / (words(text) if per_word else 1)))


@pytest.mark.skipif(ROOT is None, reason="KIBAN_DATA is not set: no real text to train on")
@pytest.mark.parametrize("per_character", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("situated", [False, True], ids=["alone", "after the situation"])
def test_a_trigram_model_of_real_text_does_not_know(situated: bool, per_character: bool) -> None:
    def likely(row: Row, text: str) -> float:
        nats = trigrams().nats(row["context"] if situated else "", text)
        return nats / len(text) if per_character else nats

    assert_near_chance(accuracy(likely))


def learnt(pairs: Sequence[Row], folds: int = 10) -> float:
    """Accuracy of logistic regression over the 1- to 3-grams in which the sentences of a pair differ, on pairs of other
    template groups than those that it was trained on: a group is a row of a table, or a couple by hand."""
    index: dict[str, int] = {}
    differences = []
    for row in pairs:
        counts: Counter[str] = Counter()
        for key, sign in (("good", 1), ("bad", -1)):
            text = f"^{row[key]}$"
            for n in (1, 2, 3):
                for i in range(len(text) - n + 1):
                    counts[text[i : i + n]] += sign
        differences.append({index.setdefault(gram, len(index)): count for gram, count in counts.items() if count})
    x_NF = np.zeros((len(pairs), len(index)), np.float32)
    for n, difference in enumerate(differences):
        x_NF[n, list(difference)] = list(difference.values())
    group_of = ["-".join(row["id"].split("-")[1:3]).rstrip("ab") for row in pairs]
    groups = sorted(set(group_of))
    fold_of = dict(zip(groups, np.random.default_rng(0).permutation(len(groups)) % folds, strict=True))
    fold_N = np.array([fold_of[group] for group in group_of])
    hits = 0.0
    for fold in range(folds):
        train, held = x_NF[fold_N != fold], x_NF[fold_N == fold]
        w_F = np.zeros(x_NF.shape[1], np.float32)
        for _ in range(60):
            p_N = 1 / (1 + np.exp(-train @ w_F))
            w_F += 2 * (train.T @ (1 - p_N) / len(train) - 1e-3 * w_F)
        score_N = np.round(held @ w_F, 5)
        hits += float(((score_N > 0) + 0.5 * (score_N == 0)).sum())
    return hits / len(pairs)


def test_a_classifier_learns_nothing_from_the_forms() -> None:
    assert_near_chance(learnt(rows()))


def test_the_classifier_learns_what_there_is_to_learn() -> None:
    assert learnt([row | {"bad": row["good"].replace("。", "なのだ。")} for row in rows()]) > 0.9
