"""The rules of Gopher and FineWeb, computed the plain way over the same words."""

import random
import re
from collections import Counter
from zlib import compress

import pyarrow as pa
import pytest

from kiban.corpus import gopher
from kiban.corpus.statistics import statistics

WORD = re.compile(
    r"[一-鿿々]+|[ァ-ヺー]+|[ぁ-ん]{1,2}|[A-Za-z0-9]+|\S",
)


def of(text: str) -> dict[str, float]:
    found = statistics(pa.array([text]), gopher.NAMES)
    return {name.removeprefix("gopher."): float(column[0]) for name, column in found.items()}


def top(words: list[str], n: int) -> int:
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(grams.values())
    return max(len(gram) * most for gram, number in grams.items() if number == most)


def duplicate(words: list[str], n: int) -> int:
    seen, total, i = set(), 0, 0
    while i < len(words) - n + 1:
        gram = tuple(words[i : i + n])
        if gram in seen:
            total += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return total


def test_ngrams_of_words() -> None:
    draw = random.Random(3)
    parts = ["機械", "を", "カメラ", "見る", "abc", "12", "。", "、", "ました"]
    for length in (3, 12, 60, 500):
        text = "".join(draw.choice(parts) for _ in range(length))
        found, words = of(text), WORD.findall(text)
        for n in (5, 6, 7, 8, 9, 10):
            assert found[f"duplicate_{n}gram_fraction"] == pytest.approx(duplicate(words, n) / len(text)), text
        for n in (2, 3, 4):
            # Of several equally frequent ones either may be taken.
            assert 0 < found[f"top_{n}gram_fraction"] <= top(words, n) / len(text) + 1e-9
    text = "見る機械。" * 8 + "カメラを"
    assert of(text)["top_3gram_fraction"] == pytest.approx(8 * len("見 る 機械") / len(text))


def test_words_and_lines() -> None:
    text = "- 機械を見る。\n- Camera 12 台、#重要...\n\n機械を見る。\n・カメラ…\n- 機械を見る。"
    found = of(text)
    words = WORD.findall(text)
    symbols = [word for word in words if word in "-。、#…・."]
    assert found["words"] == len(words) - len(symbols)
    assert found["mean_word_length"] == pytest.approx(
        sum(len(word) for word in words if word not in symbols) / found["words"]
    )
    assert found["hash_ratio"] == pytest.approx(1 / len(words))
    assert found["ellipsis_ratio"] == pytest.approx(2 / len(words))
    assert found["bullet_line_fraction"] == pytest.approx(3 / 6)
    assert found["ellipsis_line_fraction"] == pytest.approx(2 / 6)
    assert found["line_punctuation_fraction"] == pytest.approx(5 / 5)
    assert found["duplicate_line_fraction"] == pytest.approx(1 / 5)
    assert found["duplicate_line_character_fraction"] == pytest.approx(
        len("- 機械を見る。") / len(text.replace("\n", ""))
    )
    assert found["newline_ratio"] == pytest.approx(5 / len(words))
    assert found["stop_words"] == 2  # を ・
    assert found["alpha_word_fraction"] == pytest.approx(
        sum(any(c.isalpha() for c in word) for word in words) / len(words)
    )


def test_compressed_sizes_and_shares_of_uzushio() -> None:
    text = "雨の降る日は、古い本を読む。\n" * 20 + "そして、晴れた日には山へ行く。"
    found = {name: float(column[0]) for name, column in statistics(pa.array([text])).items()}
    raw = text.encode()
    assert found["zlib_ratio"] == len(compress(raw, 9)) / len(raw)
    assert found["lz4_ratio"] == len(pa.compress(raw, "lz4_raw", asbytes=True)) / len(raw)
    plain = text.replace("\n", "")
    assert found["uzushio.length"] == len(plain)
    assert found["uzushio.hiragana_ratio"] == pytest.approx(len(re.findall("[ぁ-ゟ]", plain)) / len(plain))
