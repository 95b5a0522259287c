"""The demo text: enough of it, the same for everyone, and with the noise that curation is to find."""

import hashlib
from collections import Counter
from random import Random

import pytest

from kiban.artifacts.hashing import canonical_json
from kiban.corpus.demo_text import compose, grammar, noise, passages, words
from kiban.corpus.masks import is_my_number


def test_there_are_enough_passages_by_hand_and_none_is_like_another() -> None:
    found = passages()
    assert len(found) >= 100
    assert sum(len(passage.text) for passage in found) >= 19_000
    assert len({passage.register for passage in found}) >= 8
    for number, passage in enumerate(found):
        grams = _grams(passage.text)
        assert len(passage.text) >= 80 and passage.title, passage.title
        for other in found[number + 1 :]:
            assert len(grams & _grams(other.text)) < 0.2 * len(grams), (passage.title, other.title)


def _grams(text: str, n: int = 8) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def test_the_same_seed_gives_the_same_text_for_ever() -> None:
    first, second = (list(compose(0.3, 7)) for _ in range(2))
    assert first == second != list(compose(0.3, 8))
    assert len({document["uri"] for document in first}) == len(first)
    size = sum(len(document["text"].encode()) for document in first)
    assert 0.3e6 <= size < 0.33e6


def test_a_longer_text_begins_with_the_shorter() -> None:
    short = list(compose(0.2, 1))
    assert list(compose(0.3, 1))[: len(short)] == short


def test_composed_documents_are_varied() -> None:
    rng = Random(1)
    documents = [grammar.compose_document(rng) for _ in range(2000)]
    assert len({text for _, _, text in documents}) > 1950
    assert set(register for register, _, _ in documents) == set(grammar.KINDS)
    for _, _, text in documents:
        assert "{" not in text and "}" not in text and 20 <= len(text) <= 1500


@pytest.mark.parametrize(
    ("number", "written"), [(1, "一"), (10, "十"), (11, "十一"), (20, "二十"), (48, "四十八"), (99, "九十九")]
)
def test_numbers_in_kanji(number: int, written: str) -> None:
    assert grammar.kanji(number) == written


def test_every_frame_of_an_act_names_the_same_object() -> None:
    for act in words.ACTS:
        assert len(act) == 5 and all("{o}" in form for form in act)
        assert len({"{s}" in form for form in act}) == 1
        assert act[1].endswith("ください") and act[3].endswith("ます") and act[4].endswith("ました")


def test_personal_data_has_right_check_digits() -> None:
    rng = Random(2)
    for _ in range(50):
        assert is_my_number(noise.my_number(rng))
        digits = [int(digit) for digit in reversed(noise.card(rng).replace(" ", ""))]
        assert (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0
    assert not is_my_number("123456789012")


def test_half_width_kana_come_back_by_normal_form() -> None:
    import unicodedata

    text = "ポンプのガスケットをベルトでダブルチェックする。ヴァ"
    narrow = noise.half_width(text)
    assert "ﾎﾟﾝﾌﾟ" in narrow and "ﾍﾞﾙﾄ" in narrow
    assert unicodedata.normalize("NFKC", narrow) == text


def test_every_kind_of_noise_is_there() -> None:
    documents = list(compose(2.0, 3))
    texts = Counter(document["text"] for document in documents)
    joined = "\n".join(texts)
    assert texts.most_common(1)[0][1] > 1  # exact copies
    for mark in ("版）", "ｺﾝﾍﾞﾔｰ", "クッキー", "個人番号 ", "ã\x81", "ポイント進呈", "測定値\n", "inspected"):
        assert mark in joined, mark


def test_frozen_digest_of_a_small_text() -> None:
    """Another digest means another corpus at the same address: raise the version of the stage `source`."""
    content = canonical_json(list(compose(0.2, 20260412)))
    assert hashlib.sha256(content).hexdigest()[:16] == FROZEN


FROZEN = "c6f28ed7da718f7f"
