"""Document features of Swallow's `quality.py` (Okazaki et al. 2024, arXiv:2404.17733; swallow-llm/swallow-corpus at
2d03507), under its names, with its values. Its n-gram features are in `ngrams.py`.

A sentence is a run without 。．！？!? in a line, and one of these behind it; a paragraph is a line of sentences, the
empty one included. Punctuation counts as Japanese letters; kanji beyond U+FFFF do not. Where Swallow's code fails (a
text without a sentence), the value is 0.
"""

from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import decode, longest, slots_for

NAMES = tuple(
    f"swallow.{name}"
    for name in (
        "num_letters",
        "num_japanese_letters",
        "hiragana_fraction",
        "katakana_fraction",
        "kanji_fraction",
        "kuten_fraction",
        "toten_fraction",
        "japanese_fraction",
        "avg_sentence_length",
        "max_sentence_length",
        "ellipsis_fraction",
        "duplicate_paragraph_fraction",
        "duplicate_paragraph_fraction_in_character",
        "duplicate_sentence_fraction",
        "duplicate_sentence_fraction_in_character",
    )
)
OTHER, HIRAGANA, KATAKANA, KANJI, KUTEN, TOTEN, ASCII_END, LINE_END, SPACE, ELLIPSIS = range(10)


def _kinds() -> np.ndarray:
    kinds = np.zeros(0x10000, np.uint8)
    for kind, first, last in (
        (HIRAGANA, 0x3041, 0x3096),
        (KATAKANA, 0x30A1, 0x30FA),
        (KANJI, 0x3400, 0x9FFF),
        (KANJI, 0xF900, 0xFAFF),
    ):
        kinds[first : last + 1] = kind
    spaces = [c for c in range(0x10000) if chr(c).isspace() and c != 0x0A]
    for kind, characters in (
        (KANJI, [0x3005, 0x3007, 0x303B]),
        (KUTEN, [ord(c) for c in "。．！？"]),
        (TOTEN, [ord(c) for c in "、，"]),
        (ASCII_END, [ord(c) for c in "!?"]),
        (LINE_END, [0x0A]),
        (SPACE, spaces),
        (ELLIPSIS, [ord(c) for c in "・…"]),
    ):
        kinds[characters] = kind
    return kinds


KINDS = _kinds()


def documents(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    """N x len(NAMES) features of N texts."""
    return _documents(offsets, data, KINDS)


@kernel
def _documents(offsets: Any, data: Any, kinds: Any) -> Any:
    n = len(offsets) - 1
    out = np.zeros((n, 15), np.float64)
    size = slots_for(longest(offsets) + 1)
    # Sets of sentences and of paragraphs: an entry counts if its stamp is the document's.
    keys = np.zeros((2, size), np.uint64)
    stamps = np.zeros((2, size), np.int32)
    for d in range(n):
        _document(offsets[d], offsets[d + 1], data, kinds, keys, stamps, d + 1, out[d])
    return out


@numba.njit(nogil=True)
def _document(start: int, stop: int, data: Any, kinds: Any, keys: Any, stamps: Any, stamp: int, out: Any) -> None:
    number = np.zeros(10, np.int64)  # of each kind
    letters = sentence = paragraph = 0  # characters so far
    sentences = in_sentences = longest = ellipses = repeated_sentences = in_repeated_sentences = 0
    paragraphs = in_paragraphs = repeated_paragraphs = in_repeated_paragraphs = 0
    sentence_hash = paragraph_hash = np.uint64(1)
    dots = False  # whether the last of the sentence that is no space is one
    i = start
    while i <= stop:
        kind = LINE_END  # behind the last line too
        c = np.int64(0)
        if i < stop:
            c, length = decode(data, i)
            i += length
            letters += 1
            kind = kinds[c] if c < 0x10000 else OTHER
            number[kind] += 1
        else:
            i += 1
        ends = kind == KUTEN or kind == ASCII_END
        if kind != LINE_END and not (ends and sentence == 0):
            sentence_hash = _mixed(sentence_hash, c)
            paragraph_hash = _mixed(paragraph_hash, c)
            sentence += 1
            if kind != SPACE:
                dots = kind == ELLIPSIS
        if sentence and (ends or kind == LINE_END):
            sentences += 1
            in_sentences += sentence
            longest = max(longest, sentence)
            ellipses += dots
            if _seen(keys[0], stamps[0], stamp, sentence_hash):
                repeated_sentences += 1
                in_repeated_sentences += sentence
            paragraph += sentence
            sentence = 0
            sentence_hash = np.uint64(1)
            dots = False
        if kind == LINE_END:
            paragraphs += 1
            in_paragraphs += paragraph
            if _seen(keys[1], stamps[1], stamp, paragraph_hash):
                repeated_paragraphs += 1
                in_repeated_paragraphs += paragraph
            paragraph = 0
            paragraph_hash = np.uint64(1)
    japanese = number[HIRAGANA] + number[KATAKANA] + number[KANJI] + number[KUTEN] + number[TOTEN]
    out[0] = letters
    out[1] = japanese
    for at, kind in enumerate((HIRAGANA, KATAKANA, KANJI, KUTEN, TOTEN)):
        out[2 + at] = number[kind] / max(japanese, 1)
    out[7] = japanese / max(letters, 1)
    out[8] = in_sentences / max(sentences, 1)
    out[9] = longest
    out[10] = ellipses / max(sentences, 1)
    out[11] = repeated_paragraphs / paragraphs
    out[12] = in_repeated_paragraphs / max(in_paragraphs, 1)
    out[13] = repeated_sentences / max(sentences, 1)
    out[14] = in_repeated_sentences / max(in_sentences, 1)


@numba.njit(inline="always")
def _mixed(key: Any, c: Any) -> Any:
    key = (key ^ np.uint64(c)) * np.uint64(0x9E3779B97F4A7C15)
    return key ^ key >> np.uint64(29)


@numba.njit(inline="always")
def _seen(keys: Any, stamps: Any, stamp: int, key: Any) -> bool:
    """Whether `key` was met under this stamp before; it is from now on."""
    mask = np.uint64(len(keys) - 1)
    at = (key ^ key >> np.uint64(31)) & mask
    while stamps[at] == stamp:
        if keys[at] == key:
            return True
        at = (at + np.uint64(1)) & mask
    keys[at] = key
    stamps[at] = stamp
    return False
