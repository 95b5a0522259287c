import random

import numpy as np
import pyarrow as pa
import pytest

from kiban.corpus import parts
from tests.corpus.building import sentences


def without(texts: list[str], found: parts.Parts, places: np.ndarray) -> list[str]:
    assert isinstance(found, parts.Parts)
    return parts.cut(pa.array(texts, pa.string()), places).to_pylist()


def without_paragraphs(texts: list[str], rank: list[int], characters: int = 5) -> list[str]:
    found = parts.paragraphs(pa.array(texts, pa.string()), characters)
    return without(texts, found, found.places[parts.repeated(found, np.array(rank))][:, :3])


def without_spans(texts: list[str], rank: list[int], characters: int) -> list[str]:
    found = parts.spans(pa.array(texts, pa.string()), characters)
    return without(texts, found, parts.joined(found, parts.repeated(found, np.array(rank)), characters))


def test_a_paragraph_stays_in_the_first_document_that_has_it() -> None:
    texts = [
        "共通の段落です。\n甲だけの段落。",
        "乙だけの段落。\n共通の段落 です。",
        "共通の段落です。\n短い\n丙の段落だ。\n短い",
    ]
    assert without_paragraphs(texts, [0, 1, 2]) == [texts[0], "乙だけの段落。\n", "短い\n丙の段落だ。\n短い"]
    assert without_paragraphs(texts, [2, 1, 0]) == ["甲だけの段落。", "乙だけの段落。\n", texts[2]]
    assert without_paragraphs(texts, [-1, 1, 0]) == [texts[0], "乙だけの段落。\n", texts[2]]
    assert without_paragraphs(["ガラスの段落", "カラスの段落"], [0, 1]) == ["ガラスの段落", "カラスの段落"]
    assert without_paragraphs(["同じ段落だよ\n同じ段落だよ\n終わりの段落"], [0]) == ["同じ段落だよ\n終わりの段落"]


@pytest.mark.parametrize("characters", [20, 48, 100])
def test_long_spans_are_cut_and_short_ones_stay(characters: int) -> None:
    draw = random.Random(characters)
    kana = [chr(c) for c in range(0x3042, 0x3093)] + list("漢字と𠮷é 　\n")

    def some(count: int) -> str:
        return "".join(draw.choice(kana) for _ in range(count))

    for _ in range(200):
        shared, short = some(3 * characters), some(2 * characters)
        short = "".join(short.split())[: characters // 2 - 1]
        texts = [some(90) + shared + some(90), some(200) + shared + some(80) + short, some(90) + short + some(90)]
        first, second, third = without_spans(texts, [0, 1, 2], characters)
        assert (first, third) == (texts[0], texts[2])
        gone = len("".join(texts[1].split())) - len("".join(second.split()))
        length = len("".join(shared.split()))
        # Neighbours may by chance be equal too.
        assert length - 2 * (characters // 4) <= gone <= length + 5
        assert second.startswith(texts[1][:190]) and second.endswith(short)


def test_nothing_and_short_texts() -> None:
    assert without_spans(["", "短い", "短い"], [0, 1, 2], 50) == ["", "短い", "短い"]
    assert without_paragraphs([], [], 5) == []


def test_what_is_cut_does_not_depend_on_the_order() -> None:
    made = sentences(40)
    texts = ["\n".join(made[i : i + 6]) for i in range(34)]
    rank = [7 * i % 34 for i in range(34)]
    expected = without_spans(texts, rank, 60)
    order = list(range(34))
    random.Random(2).shuffle(order)
    again = without_spans([texts[i] for i in order], [rank[i] for i in order], 60)
    assert again == [expected[i] for i in order]
    assert expected != texts
