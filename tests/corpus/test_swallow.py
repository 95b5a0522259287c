"""Features of Swallow's quality.py: equal to what its own code gives."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from kiban.corpus import ngrams, swallow
from kiban.corpus.statistics import statistics

TEXTS = (
    "春の港に船が入った。積み荷は机と椅子、それに古い時計である。\n\n誰が送ったのかは、誰も知らない……。"
    "「荷札を見てごらん！」と係が言う。荷札には「港の時計塔へ」とだけ書いてあった。\n"
    "積み荷は机と椅子、それに古い時計である。誰が送ったのかは、誰も知らない……。\n春の港に船が入った。\n春の港に船が入った。\n",
    "お問い合わせはこちら・・・\nお問い合わせはこちら・・・\nログイン｜新規登録｜ヘルプ\n！！？　 \n"
    "Kiban 0.1.0 released!? See the notes．\n"
    "データベース，サーバー，ネットワーク．〇〻々𠮷野家㐂寿司﨑\t終わり…  \n" * 2,
    "あいうえおあいうえおあいうえかあいうえおかきくけこあいうえおかきくけこ" * 5 + "。" + "漢字" * 30,
)

# What quality.py at 2d03507 gives for TEXTS, in the order of swallow.NAMES and ngrams.SWALLOW.
REFERENCE = (
    (
        151,
        137,
        0.5474452554744526,
        0.0,
        0.35036496350364965,
        0.072992700729927,
        0.029197080291970802,
        0.9072847682119205,
        14.5,
        22,
        0.0,
        0.2857142857142857,
        0.06896551724137931,
        0.4,
        0.4,
        0.04,
        0.026845637583892617,
        0.02027027027027027,
        0.38235294117647056,
        0.34285714285714286,
        0.3055555555555556,
        0.2702702702702703,
        0.23684210526315788,
        0.20512820512820512,
    ),
    (
        246,
        122,
        0.29508196721311475,
        0.29508196721311475,
        0.29508196721311475,
        0.08196721311475409,
        0.03278688524590164,
        0.4959349593495935,
        14.125,
        21,
        0.375,
        0.5384615384615384,
        0.5575221238938053,
        0.5625,
        0.5575221238938053,
        0.0326530612244898,
        0.01639344262295082,
        0.01646090534979424,
        0.9732142857142857,
        0.9646017699115044,
        0.956140350877193,
        0.9478260869565217,
        0.9396551724137931,
        0.9316239316239316,
    ),
    (
        236,
        236,
        0.7415254237288136,
        0.0,
        0.2542372881355932,
        0.00423728813559322,
        0.0,
        1.0,
        118.0,
        176,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.1276595744680851,
        0.12393162393162394,
        0.12446351931330472,
        0.8076923076923077,
        0.7931034482758621,
        0.78125,
        0.7714285714285715,
        0.7631578947368421,
        0.7560975609756098,
    ),
)


@pytest.mark.parametrize(("text", "expected"), list(zip(TEXTS, REFERENCE, strict=True)))
def test_all_features_are_those_of_its_own_code(text: str, expected: tuple[float, ...]) -> None:
    found = statistics(pa.array(["", text, "短い"]), (*swallow.NAMES, *ngrams.SWALLOW))
    assert [float(column[1]) for column in found.values()] == list(expected)


def repetition(text: str) -> list[float]:
    found = []
    for n in range(2, 11):
        grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        if n < 5:
            found.append(max(grams.values(), default=0) / max(sum(grams.values()), 1))
        else:
            found.append(sum(number > 1 for number in grams.values()) / max(len(grams), 1))
    return found


def frequent_5grams(text: str) -> float:
    """HojiChar's CharRepetitionRatioFilter, by its definition."""
    grams = sorted(Counter(text[i : i + 5] for i in range(len(text) - 4)).values(), reverse=True)
    frequent = grams[: min(int(len(grams) ** 0.5), sum(number > 1 for number in grams))]
    return sum(frequent) / max(sum(grams), 1)


def made_up() -> list[str]:
    draw = random.Random(7)
    texts = ["", "a", "ab", "abc", "abcd", "ああああああああああああ"]
    for alphabet in ("ab", "あいう\n", "日本語の文章。、\n", "".join(map(chr, range(0x4E00, 0x4F00))) + "𠮷😀"):
        for length in (5, 9, 10, 11, 40, 300, 3000):
            texts.append("".join(draw.choice(alphabet) for _ in range(length)))
    return texts


def test_ngram_features_are_those_of_whole_tables() -> None:
    texts = made_up()
    found = statistics(pa.array(texts), (*ngrams.SWALLOW, *ngrams.HOJICHAR, *ngrams.KIBAN))
    for row, text in enumerate(texts):
        assert [float(found[name][row]) for name in ngrams.SWALLOW] == repetition(text), text
        assert float(found[ngrams.HOJICHAR[0]][row]) == frequent_5grams(text), text
        plain = "".join(text.split())
        grams = [plain[i : i + 10] for i in range(len(plain) - 9)]
        assert float(found[ngrams.KIBAN[0]][row]) == pytest.approx(1 - len(set(grams)) / len(grams) if grams else 0)
