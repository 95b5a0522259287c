"""Suites against what their files say, and files that are not what they should be."""

import json
from pathlib import Path

import pytest

from kiban.artifacts.errors import KibanError
from kiban.evaluation import suite

SIZES = {
    "cocoa-mt": 1960,
    "copa-ja": 500,
    "j-unimorph": 1964,
    "jcommonsensemorality": 1996,
    "jcommonsenseqa": 1119,
    "jmmlu": 3366,
    "jnli": 2434,
    "jsquad": 4442,
    "jsts": 1457,
    "keico": 5069 - 5,
    "keico-flags": 3 * (5069 - 5),
    "mgsm-ja": 250,
    "ud-gsd": 507,
}


@pytest.mark.parametrize("name", suite.names())
def test_every_suite_is_whole(name: str, kiban_data: Path) -> None:
    found = suite.load(name)
    path = found.path(kiban_data / "eval")
    if path is None or name == "jaquad":
        assert found.rule == "text" or not (path and path.exists())
        return
    for variant in ("default", *found.variants):
        items = suite.items(found, path, variant)
        assert len(items) == SIZES.get(name, len(items))
        for item in items:
            assert "{" not in item.prompt.replace("{\\", "") or found.format in ("jmmlu", "squad") or name == "shiji"
            assert item.right if found.rule in ("pairs", "choice", "generate") else True
            # White space before what follows would be scored with it: only a line end is meant.
            assert not item.asked.endswith((" ", "\u3000"))


def test_keico_shows_five_examples_and_asks_none_of_them(kiban_data: Path) -> None:
    for name, times in (("keico", 1), ("keico-flags", 3)):
        found = suite.load(name)
        items = suite.items(found, kiban_data / "eval" / str(found.file))
        assert len({item.examples for item in items}) == times
        for item in items[:: len(items) // 50]:
            assert item.examples.count("文：") == 5 and item.prompt.count("文：") == 1
            assert item.prompt not in item.examples


def test_what_is_asked_of_cocoa_cannot_be_had_by_liking_one_text(kiban_data: Path) -> None:
    found = suite.load("cocoa-mt")
    items = suite.items(found, kiban_data / "eval" / str(found.file))
    assert sum(item.answer for item in items) * 2 == len(items)
    for formal, informal in zip(items[::2], items[1::2], strict=True):
        assert formal.choices == informal.choices and (formal.answer, informal.answer) == (0, 1)


def test_j_unimorph_asks_for_one_form_only(kiban_data: Path) -> None:
    found = suite.load("j-unimorph")
    lines = (kiban_data / "eval" / str(found.file)).read_text("utf-8").splitlines()
    forms = {(lemma, form) for lemma, form, _ in (line.split("\t") for line in lines)}
    items = suite.items(found, kiban_data / "eval" / str(found.file))
    for item in items:
        lemma = item.id.split("-")[0]
        assert all((lemma, choice) in forms for choice in item.choices) and len(item.choices) == 4
    answers = [item.answer for item in items]
    assert all(0.2 < answers.count(place) / len(answers) < 0.3 for place in range(4))


def test_published_sets_ask_some_questions_again_and_no_more(kiban_data: Path, tmp_path: Path) -> None:
    found = suite.load("jnli")
    lines = (kiban_data / "eval" / str(found.file)).read_text("utf-8").splitlines()
    again = json.loads(lines[0]) | {"sentence_pair_id": "again"}
    (tmp_path / "set.json").write_text("\n".join([*lines, json.dumps(again)]), encoding="utf-8")
    with pytest.raises(KibanError, match="asks 12 questions again, where 11 are known; again asks what 0 asks"):
        suite.items(found, tmp_path / "set.json")


def test_jaquad_is_read_by_path(tmp_path: Path) -> None:
    """In the publisher's layout: some files in a folder."""
    found = suite.load("jaquad")
    question = {"id": "q", "question": "何ですか。", "question_type": "Multiple sentence"}
    answers = [{"text": "部品", "answer_start": 0, "answer_type": "Object"}]
    for number in range(2):
        paragraph = {"context": "部品である。", "qas": [question | {"id": f"q{number}", "answers": answers}]}
        paragraph["context"] += str(number)
        content = {"version": "JaQuAD-version-0.1.0", "data": [{"title": "部品", "paragraphs": [paragraph]}]}
        (tmp_path / f"jaquad_dev_{number:04}.json").write_text(json.dumps(content), encoding="utf-8")
    items = suite.items(found, tmp_path)
    assert [item.id for item in items] == ["q0", "q1"] and items[0].references == ("部品",)
    assert "部品である。0\n質問：何ですか。" in items[0].prompt


def test_a_sample_is_the_same_for_everyone_and_grows() -> None:
    items = [suite.Item(str(i), "", ("a", "b"), 0) for i in range(100)]
    ten, twenty = (set(item.id for item in suite.sample(items, n)) for n in (10, 20))
    assert len(ten) == 10 and ten < twenty
    assert suite.sample(items, None) == items


def test_examples_are_drawn_from_items_that_nobody_is_asked() -> None:
    items = [suite.Item(str(i), f"問{i}：", ("a", "b"), i % 2) for i in range(40)]
    asked = {seed: suite.with_examples(items, 3, seed) for seed in range(3)}
    assert len({tuple(item.id for item in found) for found in asked.values()}) == 1
    assert len({found[0].examples for found in asked.values()}) == 3
    for found in asked.values():
        assert found[0].examples.count("問") == 3 and len(found) == 40 - suite.POOL
        assert not any(item.prompt in item.examples for item in found)
        assert {item.examples for item in found} == {found[0].examples}
    assert suite.with_examples(items, 0, 0) == items
    with pytest.raises(KibanError, match="at most 16"):
        suite.with_examples(items[:16], 2, 0)


ROW = {"id": "1", "good": "a", "bad": "b", "phenomenon": "p"}
QUESTION = {"id": "1", "question": "問", "choices": ["a", "b"], "answer": 1, "phenomenon": "p"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("keigo", [ROW, ROW], "the item 1 twice"),
        ("keigo", [ROW, ROW | {"id": "2"}], "asks 1 questions again"),
        ("keigo", [{"id": "1", "good": "a"}], "not of its format"),
        ("keigo", [ROW | {"bad": ""}], "item 1 has an empty text"),
        ("keigo", [ROW | {"bad": "a"}], "the same choice twice"),
        ("keigo", [ROW | {"bad": "\ufffdb"}], "wrong encoding"),
        ("keigo", [], "holds no item"),
        ("own-choice", [QUESTION | {"answer": 2}], "answer 2 is none of its 2 choices"),
        ("own-choice", [QUESTION | {"answer": -1}], "answer -1 is none"),
        ("own-choice", [{key: value for key, value in QUESTION.items() if key != "answer"}], "KeyError: 'answer'"),
        ("jcommonsenseqa", [{"q_id": 1, "question": "問", **{f"choice{i}": str(i) for i in range(5)}}], "'label'"),
        ("jsts", [{"sentence_pair_id": "1", "sentence1": "a", "sentence2": "b", "label": 7}], "no similarity"),
        ("jnli", [{"sentence_pair_id": "1", "sentence1": "a", "sentence2": "b", "label": "?"}], "not of its format"),
    ],
)
def test_bad_sets_are_named(name: str, content: list[dict[str, object]], expected: str, tmp_path: Path) -> None:
    found = (
        suite.load(name)
        if name != "own-choice"
        else suite.load("keigo").model_copy(update={"rule": "choice", "format": "choice", "prompt": "{question}"})
    )
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in content), encoding="utf-8")
    with pytest.raises(KibanError, match=expected) as error:
        suite.items(found, file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    found = suite.load("keigo")
    file = tmp_path / "set.jsonl"
    file.write_text("{")
    with pytest.raises(KibanError, match="not of its format"):
        suite.items(found, file)
    file.write_bytes("文".encode("cp932"))
    with pytest.raises(KibanError, match="not UTF-8"):
        suite.items(found, file)
    with pytest.raises(KibanError, match="cannot be read"):
        suite.items(found, tmp_path / "nothing.jsonl")
    with pytest.raises(KibanError, match="no such suite"):
        suite.load("nothing")
    with pytest.raises(KibanError, match="there is no prompt 'nothing'; prompts: default, harness, listed"):
        suite.load("jcommonsenseqa").template("nothing")
    for text, expected in [(",sent,label\n0,文\n", "number of columns"), (",sent,label\n0,文,2\n", "not in")]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(KibanError, match=expected):
            suite.items(suite.load("jcommonsensemorality"), file)
