import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus.decontamination import Grams, contamination, grams_of, held, numbered
from kiban.corpus.evaluation_sets import evaluation_sets
from kiban.corpus.normalise import normalise
from tests.corpus.building import build, ledger, sentences, source_of, write_jsonl

ITEMS = [
    "社長がお客様に新しい資料をご覧に入れました。",
    "電子機器で使用される最も主要な電子回路基板の事をなんと言う？",
    "部長がおっしゃいました",  # 11 characters: one gram with its boundaries
    "短い文です",
]


def shares(*texts: str) -> list[float]:
    return contamination(pa.array(texts), grams_of(ITEMS))[0].tolist()


def test_a_document_that_holds_an_evaluation_text_is_found() -> None:
    before, behind = sentences(2)
    found = shares(
        before + ITEMS[0] + behind,
        before + "\n" + "電子機器で使用される最も主要な 電子回路基板の　事をなんと言う" + behind,
        before + "「部長がおっしゃいました」と" + behind,
        ITEMS[0],
    )
    assert found[0] == 1 and found[1] >= 0.8 and found[2] == 1 and found[3] == 1


def test_other_documents_are_not() -> None:
    found = shares(
        *sentences(3),
        "",
        "短い文です。短い文です。",  # too short to be told from everyday language
        "社長がお客様に新しい",  # a part of one
        "若い部長がおっしゃいましたから",  # not a sentence of its own
        ITEMS[0].replace("ご覧", "こ覧").replace("資料", "賃料"),
        "社長かお客様に新しい資料をこ覧に入れました。",  # dakuten count
    )
    assert found == [0] * 9


def test_short_texts_are_found_as_whole_sentences_where_that_is_asked_for() -> None:
    grams = grams_of([], short=["客が二人来た。", "短い"])
    texts = [
        "夜。客が二人来た。",
        "客が 二人来た",
        "すぐに客が二人来た。",
        "客が二人来たので困る。",
        "「短い」と言う。",
        "",
    ]
    assert contamination(pa.array(texts), grams)[0].tolist() == [1, 1, 0, 0, 0, 0]


def test_the_text_that_is_held_is_named() -> None:
    grams = grams_of(ITEMS)
    _, which = contamination(pa.array(["前置き。" + ITEMS[0]]), grams)
    assert grams.text(int(which[0])) == ITEMS[0]


def test_without_evaluation_texts_nothing_is_found() -> None:
    assert contamination(pa.array(sentences(2)), grams_of([]))[0].tolist() == [0, 0]


def test_sets_are_read(tmp_path: Path) -> None:
    own = len(evaluation_sets(None))
    with pytest.raises(KibanError, match="holds no evaluation set"):
        evaluation_sets(tmp_path)
    (tmp_path / "LICENSE.txt").write_text("terms")
    (tmp_path / "a.jsonl").write_text(
        '{"good": "良", "bad": "悪", "id": 1}\n\n{"decontaminate": ["一", "二"], "good": "x"}\n'
    )
    (tmp_path / "b.csv").write_text('本文,Level\n"一、二",1\n三,2\n')
    a, b = evaluation_sets(tmp_path)[own:]
    assert (a.name, a.items()) == ("a", [("良", "悪"), ("一", "二")])
    assert (b.name, b.items()) == ("b", [("一、二",), ("三",)])
    (tmp_path / "c.jsonl").write_text("[1]\n")
    with pytest.raises(KibanError, match="c.jsonl: not the evaluation set c"):
        evaluation_sets(tmp_path)[-1].items()
    (tmp_path / "d.xlsx").write_bytes(b"PK")
    with pytest.raises(KibanError, match="d.xlsx is of no known evaluation set"):
        evaluation_sets(tmp_path)


def test_a_question_that_many_items_ask_is_looked_for_with_its_choices(tmp_path: Path) -> None:
    folder = tmp_path / "jmmlu"
    folder.mkdir()
    asked = "次のうち正しいものを一つ選びなさい。"
    rows = [f"{asked},甲{n},乙{n},丙{n},丁{n},A" for n in range(2)] + ["富士山の高さは何メートルか。,1,2,3,3776,D"]
    (folder / "a.csv").write_text("\n".join(rows))
    [found] = [s for s in evaluation_sets(tmp_path) if s.name == "jmmlu"]
    assert found.items() == [(f"{asked}\n甲{n}\n乙{n}\n丙{n}\n丁{n}",) for n in range(2)] + [
        ("富士山の高さは何メートルか。",)
    ]
    grams = grams_of(text for item in found.items() for text in item)
    assert shares_in(grams, asked, f"問一。{asked}\n甲1\n乙1\n丙1\n丁1") == [0, 1]


def shares_in(grams: Grams, *texts: str) -> list[float]:
    return contamination(pa.array(texts), grams)[0].tolist()


def test_all_that_a_text_holds_is_told() -> None:
    grams = grams_of(ITEMS)
    numbers = {text: number for number, text in enumerate(numbered(ITEMS))}
    rows, items, found = held(pa.array(["何もない。", ITEMS[0] + "。" + ITEMS[2] + "。", ITEMS[1]]), grams)
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == [
        *((1, number) for number in sorted((numbers[ITEMS[0]], numbers[ITEMS[2]]))),
        (2, numbers[ITEMS[1]]),
    ]
    assert (found == 1).all()


def test_every_published_set_is_found_in_itself_and_not_in_other_text(kiban_data: Path) -> None:
    sets = {s.name: s.items() for s in evaluation_sets(kiban_data / "eval")}
    published = set(sets) - {s.name for s in evaluation_sets(None)}
    assert published == {
        *("cocoa-mt", "copa-ja", "j-unimorph", "jcommonsensemorality", "jcommonsenseqa", "jmmlu", "jnli", "jsquad"),
        *("jsts", "keico", "mgsm-ja", "ud-gsd"),
    }
    assert {name: len(sets[name]) for name in ("jcommonsenseqa", "jsquad", "mgsm-ja", "ud-gsd", "j-unimorph")} == {
        "jcommonsenseqa": 1119,
        "jsquad": 4442,
        "mgsm-ja": 250,
        "ud-gsd": 507,
        "j-unimorph": 5448,
    }
    texts = sorted({text for name in published for item in sets[name] for text in item})
    grams = grams_of(texts)
    long = normalise(pa.array([text for text in texts if len(text) >= 20]), keep_letters=True)
    assert np.all(contamination(long, grams)[0] >= 0.8)
    assert not contamination(pa.array(sentences(50)), grams)[0].any()


def test_the_report_says_of_each_set_what_was_held_and_where(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    asked = ["国境の長いトンネルの先にある町の名は何か。", "短い。", "吾輩という猫を飼っていた教師の名は何か。"]
    write_jsonl(folder / "quiz.jsonl", [{"question": text} for text in asked])
    clean = sentences(30)
    texts = [*clean, clean[0] + asked[0], asked[0] + clean[1] + asked[2]]
    source = source_of("own", write_jsonl(tmp_path / "own.jsonl", [{"text": text} for text in texts]), "jsonl")
    made = build(tmp_path / "store", [source], evaluation_data=str(folder), hold_back=0)
    told = json.loads((made.path / "decontamination.json").read_text())["sets"]
    assert told["quiz"] == {"items": 3, "looked_for": 2, "held": 2, "documents": 2}
    assert told["keigo"]["held"] == 0 and told["keigo"]["looked_for"] > 1000
    rows = pq.read_table(made.path / "contaminated.parquet").to_pylist()
    assert sorted((row["uri"], row["set"], row["item"], row["text"]) for row in rows) == [
        ("own.jsonl#31", "quiz", 0, asked[0]),
        ("own.jsonl#32", "quiz", 0, asked[0]),
        ("own.jsonl#32", "quiz", 2, asked[2]),
    ]
    assert {row["id"] for row in rows} == {row["id"] for row in ledger(made) if row["reason"] == "contaminated"}
