"""Our own minimal pairs: whole, and not to be had by counting."""

import json
from collections import Counter

import pytest

from kiban.evaluation import pairs, suite

SUITES = ("joshi", "josuushi")


@pytest.mark.parametrize("name", SUITES)
def test_the_files_are_what_the_tables_give(name: str) -> None:
    path = suite.load(name).path(None)
    assert path is not None
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == pairs.rows(name)


def test_there_are_enough_and_none_twice() -> None:
    rows = [row for name in SUITES for row in pairs.rows(name)]
    by_hand = (pairs.DATA / "by-hand.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) >= 190 and len(by_hand) >= 45
    sentences = [row["good"] for row in rows]
    assert len(set(sentences)) == len(sentences)
    assert not set(sentences) & {row["bad"] for row in rows}
    for row in rows:
        assert row["good"] != row["bad"] and row["rationale"] and row["good"].endswith("。")
        common = sum((Counter(row["good"]) & Counter(row["bad"])).values())
        assert common >= 0.4 * len(row["bad"]), f"hardly a minimal pair: {row['good']} / {row['bad']}"


@pytest.mark.parametrize("name", SUITES)
def test_length_is_no_way_to_answer(name: str) -> None:
    rows = pairs.rows(name)
    shorter = sum(len(row["good"]) < len(row["bad"]) for row in rows)
    longer = sum(len(row["good"]) > len(row["bad"]) for row in rows)
    ties = len(rows) - shorter - longer
    best = max(shorter, longer) + ties / 2
    assert best / len(rows) < 0.58


@pytest.mark.parametrize("name", SUITES)
def test_liking_some_characters_is_no_way_to_answer(name: str) -> None:
    """A unigram model of characters, fitted on half of the pairs, on the rest. They mirror each other two and two."""
    rows = pairs.rows(name)
    score: Counter[str] = Counter()
    for i, row in enumerate(rows):
        if i // 2 % 2 == 0:
            score.update(row["good"])
            score.subtract(row["bad"])
    rest = [row for i, row in enumerate(rows) if i // 2 % 2]
    right = 0.0
    for row in rest:
        good, bad = (sum(score[c] for c in row[key]) for key in ("good", "bad"))
        right += 0.5 if good == bad else good > bad
    assert 0.4 < right / len(rest) < 0.6
