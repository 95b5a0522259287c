import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiban.corpus.normalise import normalise

# Text with what matters here: kana of both widths, marks, spaces, line ends, control characters, and anything else.
SPECIAL = st.sampled_from(list("ｶﾞﾊﾟｳﾞﾜﾞカがﾟﾞ゛\u3099\u309a \u3000\t\n\r\x0b\x85\u2028\u200b\ufeff\xadＡ９a①㎡！é"))
TEXT = st.text(st.one_of(SPECIAL, st.characters(exclude_categories=["Cs"])), max_size=60)


def one(text: str, keep_letters: bool = False) -> str:
    return normalise(pa.array([text]), keep_letters)[0].as_py()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ｶﾞﾗｽﾄﾊﾟﾝ､ｳﾞｨｵﾗ｡", "ガラストパン、ヴィオラ。"),
        ("ﾞ単独ﾟ", "゛単独゜"),
        ("カﾞはﾟ", "ガぱ"),  # a half-width mark behind full-width kana
        ("か\u3099は\u309a", "がぱ"),
        ("ＡＢＣ１２３", "ABC123"),
        ("①㎡㍿℃！？（）～・", "①㎡㍿℃！？（）～・"),
        ("学校が、ばら", "学校が、ばら"),
        ("一\r\n二\r三\x85四\u2028五", "一\n二\n三\n四\n五"),
        ("行末 　\t\n\n\n\n　次の行", "行末\n\n　次の行"),
        ("\n\n　字下げ\n", "　字下げ"),
        ("\ufeff幅\u200bなし\x00制\x07御\xad", "幅なし制御"),
        ("no\u00a0break\u2009thin", "no break thin"),
        ("", ""),
        (" \n　", ""),
    ],
)
def test_normal_form(given: str, expected: str) -> None:
    assert one(given) == expected


def test_every_character_ends_in_nfc() -> None:
    characters = [chr(c) for c in range(0x20000) if not 0xD800 <= c < 0xE000] + [
        chr(c) for c in range(0x2F800, 0x2FA1E)
    ]
    for before in ("", "か", "e", "\u1100", "\uac00", "\u0323"):
        texts = pa.array([f"{before}{c}" for c in characters])
        found = normalise(texts).to_pylist()
        assert [text for text in found if not unicodedata.is_normalized("NFC", text)] == []


def test_letters_stay_wide_where_they_are_typography() -> None:
    assert one("第１章　Ａ　ｶﾞ", keep_letters=True) == "第１章　Ａ　ガ"


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_twice_is_once(text: str) -> None:
    first = one(text)
    assert one(first) == first
    assert unicodedata.is_normalized("NFC", first)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in first)


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_what_has_no_other_form_stays(text: str) -> None:
    for character in "①㎡！がパ漢":
        assert one(text).count(character) >= unicodedata.normalize("NFC", text).count(character)


def test_a_slice_of_an_array_is_read_from_its_own_offset() -> None:
    texts = pa.array(["捨てる", "ｱ", "Ｂ", "捨てる"]).slice(1, 2)
    assert normalise(texts).to_pylist() == ["ア", "B"]
