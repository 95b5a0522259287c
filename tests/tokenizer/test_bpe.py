"""Every string round-trips, and every export gives the same ids."""

import base64
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kiban.artifacts.errors import KibanError
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.pieces import CLASS, PATTERNS, class_of, end_of_piece
from kiban.tokenizer.special import BOS, EOS, SPECIAL, USER

TEXTS = [
    "春はあけぼの。やうやう白くなりゆく山ぎは、すこしあかりて、紫だちたる雲のほそくたなびきたる。",
    "点検の結果、ポンプ3号機の軸受から異音を確認しました。交換部品はベアリング6204です。",
    "いつもお世話になっております。先日のお打ち合わせの件、ご確認いただけますでしょうか。",
    "def main(argv: list[str]) -> int:\n    return len(argv)\n\n\tfor x in range(10):\n        print(x)\n",
    "The quick brown fox jumps over the lazy dog. 1234567890 ①②③ ㎡ １２３ ｱｲｳ",
] * 20
VOCABULARY = 480

characters = st.one_of(
    st.sampled_from(
        "日本語の処理はむずかしい、！？。「」ーヶ々〆アイウｱｲｳabc DEF 123 ４５６\n\r\t é 한😀㎡①　葛\U000e0100\x00"
    ),
    st.characters(exclude_categories=["Cs"]),
)
strings = st.text(characters, max_size=60)


@cache
def trained() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCABULARY)


@cache
def by_words() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCABULARY, second_stage=0)


@cache
def repetitive() -> Tokenizer:
    """Of text in which a token can be made in many ways."""
    texts = ["あいあいあいあいう", "ああああああ", "ababababa", "aaaaaaaaaaaaaaaaa", "いあいうあ"] * 3
    return Tokenizer.train(texts, 400, may_be_smaller=True, second_stage=0.5)


@cache
def in_hugging_face(words: Tokenizer) -> tokenizers.Tokenizer:
    made = words.hugging_face()
    made.encode_special_tokens = True  # as ours: what looks special in a text is text
    return made


@cache
def in_tiktoken(words: Tokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding("test", pat_str=words.pattern, mergeable_ranks=words.ranks(), special_tokens=SPECIAL)


@pytest.mark.slow
def test_every_code_point_gives_the_same_ids_in_both_libraries() -> None:
    """Whatever versions of Unicode the two regex engines know."""
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for frame in ("あ{}漢", "ア{}1", " {}a", "。{}\n"):
        for start in range(0, len(points), 4096):
            texts = [frame.format(point) for point in points[start : start + 4096]]
            theirs = in_hugging_face(trained()).encode_batch(texts, add_special_tokens=False)
            for text, their in zip(texts, theirs, strict=True):
                assert trained().encode(text) == their.ids, ascii(text)
                assert trained().decode(their.ids) == text, ascii(text)


def pieces(text: str, by_clauses: bool) -> list[str]:
    kinds = np.array([class_of(CLASS, ord(character)) for character in text], np.uint8)
    found, at = [], 0
    while at < len(text):
        end = end_of_piece(kinds, at, len(text), by_clauses)
        found.append(text[at:end])
        at = end
    return found


def test_words_and_clauses() -> None:
    text = "点検を終えたら、ポンプの3号機を1200回、foo (bar)\n\n  一ヶ月"
    words = "点検を|終えたら、|ポンプの|3|号機を|120|0|回、| foo| |(bar|)|\n\n  |一ヶ月"
    assert "|".join(pieces(text.replace("、foo", "、 foo"), False)) == words
    assert "|".join(pieces(text, True)) == "点検を終えたら、|ポンプの|3|号機を|120|0|回、|foo (bar)|\n\n  一ヶ月"


long_runs = st.builds(
    lambda runs: "".join(character * number for character, number in runs),
    st.lists(st.tuples(characters, st.sampled_from([1, 2, 7, 8, 9, 63, 64, 65, 66, 255, 256, 257, 300])), max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(strings, long_runs))
def test_the_kernel_cuts_where_the_patterns_do(text: str) -> None:
    for name, pattern in PATTERNS.items():
        assert pieces(text, name == "clauses") == regex.findall(pattern, text), name


@settings(max_examples=300, deadline=None)
@given(st.one_of(strings, long_runs, st.text("あいう", max_size=80), st.text("ab", max_size=80)))
def test_the_three_encoders_agree(text: str) -> None:
    for words in (trained(), by_words(), repetitive()):
        ids = words.encode(text)
        assert words.decode(ids) == text == words.decode(np.array(ids, np.uint32))
        assert in_tiktoken(words).encode_ordinary(text) == ids
        assert in_hugging_face(words).encode(text, add_special_tokens=False).ids == ids


@settings(max_examples=50, deadline=None)
@given(st.lists(strings, max_size=20), st.integers(0, 3), st.integers(1, 5))
def test_arrow_strings_are_encoded_in_place(texts: list[str], skipped: int, threads: int) -> None:
    for kind in (pa.string(), pa.large_string()):
        ids, offsets = trained().encode_strings(pa.array(texts, kind)[skipped:], threads)
        assert ids.dtype == np.uint32
        for number, text in enumerate(texts[skipped:]):
            assert ids[offsets[number] : offsets[number + 1]].tolist() == trained().encode(text)


def test_what_looks_special_in_a_document_is_text() -> None:
    ids = trained().encode("<|eos|>と<|user|>")
    assert not set(ids) & set(SPECIAL.values())
    assert trained().decode(ids) == "<|eos|>と<|user|>"
    asked = trained().encode("<|eos|>と<|user|>", parse_special=True)
    assert asked == [EOS, *trained().encode("と"), USER]
    assert trained().decode(asked) == "<|eos|>と<|user|>"


def test_a_lone_surrogate_is_refused_and_null_is_not() -> None:
    with pytest.raises(KibanError, match="character 2 of the text is a lone surrogate"):
        trained().encode("ab\ud800c")
    assert trained().decode(trained().encode("a\0b")) == "a\0b"


def test_long_and_repeated_text() -> None:
    for text in ["あ" * 100_000, " " * 50_000, "0" * 50_000, "\n" * 50_000]:
        assert trained().decode(trained().encode(text)) == text


def test_files_are_read_back_by_every_library(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trained().save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    lines = (tmp_path / "ranks.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    plain = tiktoken.Encoding("test", pat_str=trained().pattern, mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS[:5]:
        ids = Tokenizer.load(tmp_path).encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids == plain.encode(text)
        assert theirs.encode(text) == [BOS, *ids]
    messages = [
        {"role": "system", "content": "丁寧に答えてください。"},
        {"role": "user", "content": "こんにちは"},
    ]
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == trained().chat_tokens(
        messages
    )
    assert len(theirs) == trained().vocab_size == VOCABULARY


def test_training_is_deterministic() -> None:
    assert Tokenizer.train(TEXTS, VOCABULARY).tokens == trained().tokens


def test_a_vocabulary_that_the_text_does_not_support_is_refused() -> None:
    with pytest.raises(KibanError, match=r"supports a vocabulary of \d+, not 50000"):
        Tokenizer.train(TEXTS, 50_000)
    with pytest.raises(KibanError, match="holds no merge"):
        Tokenizer.train(TEXTS, 300)
    largest = Tokenizer.train(TEXTS, 50_000, may_be_smaller=True)
    assert VOCABULARY < largest.vocab_size < 50_000


def test_the_digest_is_of_what_determines_the_ids(tmp_path: Path) -> None:
    trained().save(tmp_path)
    assert Tokenizer.load(tmp_path).digest == trained().digest
    assert Tokenizer.train(TEXTS[1:], VOCABULARY).digest != trained().digest


def test_a_tokenizer_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"merges": []}, "added_tokens": []}')
    with pytest.raises(KibanError, match="not a tokenizer made by Kiban"):
        Tokenizer.load(tmp_path)
    with pytest.raises(KibanError, match="role 'robot' is not known"):
        trained().chat_tokens([{"role": "robot", "content": "?"}])


def test_real_text_round_trips_and_both_libraries_agree(kiban_data: Path) -> None:
    for path in sorted((kiban_data / "smoke").rglob("*.*")):
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("cp932")
        ids = trained().encode(text)
        assert trained().decode(ids) == text
        assert in_hugging_face(trained()).encode(text, add_special_tokens=False).ids == ids
