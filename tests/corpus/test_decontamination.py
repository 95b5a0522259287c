from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus.decontamination import contamination, grams_of
from kiban.corpus.evaluation_sets import evaluation_files, texts_of
from kiban.corpus.normalise import normalise
from tests.corpus.building import sentences

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
    (tmp_path / "a.jsonl").write_text(
        '{"good": "良", "bad": "悪", "id": 1}\n\n{"decontaminate": ["一", "二"], "good": "x"}\n'
    )
    (tmp_path / "b.csv").write_text('本文,Level\n"一、二",1\n三,2\n')
    assert texts_of(tmp_path / "a.jsonl") == ["良", "悪", "一", "二"]
    assert texts_of(tmp_path / "b.csv") == ["一、二", "三"]
    (tmp_path / "c.jsonl").write_text("[1]\n")
    with pytest.raises(KibanError, match="not an evaluation set"):
        texts_of(tmp_path / "c.jsonl")
    with pytest.raises(KibanError, match="holds neither"):
        evaluation_files(tmp_path)


def test_real_sets_are_found_in_themselves_and_not_in_other_text(kiban_data: Path) -> None:
    files = evaluation_files(kiban_data / "eval")[-2:]
    texts = [text for file in files for text in texts_of(file)]
    assert len(texts) == 1119 + 5069
    grams = grams_of(texts)
    long = normalise(pa.array([text for text in texts if len(text) >= 20]), keep_letters=True)
    assert np.all(contamination(long, grams)[0] >= 0.8)
    assert not contamination(pa.array(sentences(50)), grams)[0].any()
