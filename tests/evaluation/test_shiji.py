"""The instructions of `shiji`: rebuilt, whole, and wrong in one slot. Its baselines: test_choice_sets.py."""

import json
from collections import Counter

from kiban.evaluation import suite as suites
from kiban.evaluation.sets import shiji


def test_the_file_is_what_the_tables_give() -> None:
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shiji.rows())
    assert (suites.HERE / "data" / "shiji.jsonl").read_bytes() == written.encode()


def test_enough_of_it_is_by_hand() -> None:
    assert sum("-hand-" in row["id"] for row in shiji.rows()) >= 150


def test_wrong_actions_are_wrong_in_one_slot() -> None:
    for row in shiji.rows():
        actions = [json.loads(choice) for choice in row["choices"]]
        right = actions[row["answer"]]
        for other in actions:
            assert other.keys() == right.keys()
            assert other is right or sum(other[slot] != right[slot] for slot in right) == 1, row["id"]


def test_choices_have_about_the_same_length_and_each_is_right_once() -> None:
    fours: dict[str, list[str]] = {}
    for row in shiji.rows():
        lengths = [len(choice) for choice in row["choices"]]
        assert max(lengths) <= 1.4 * min(lengths), row["id"]
        fours.setdefault(row["id"][:-1], []).append(row["choices"][row["answer"]])
        assert set(row["choices"]) >= set(fours[row["id"][:-1]])
    assert all(len(set(right)) == 4 for right in fours.values())
    assert set(Counter(row["answer"] for row in shiji.rows()).values()) == {len(fours)}
