"""The rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) and FineWeb over words and lines, as datatrove
computes them for FineWeb2.

Its words are a morphological analyser's, at 0.5 MB/s. Here a word is a run of one script: of kanji with 々, of katakana
with ー, of Latin letters and digits, of at most `LONGEST_HIRAGANA` hiragana; any other visible character is one by
itself. How often the verdicts agree is in the record of `benchmarks/corpus.py`.
"""

import unicodedata
from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.ngrams import filter_repeated
from kiban.corpus.utf8 import decode, longest, slots_for

TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)
NAMES = tuple(
    f"gopher.{name}"
    for name in (
        "words",  # that are no punctuation
        "mean_word_length",  # of those, in characters
        "hash_ratio",  # # for each word
        "ellipsis_ratio",  # ... and … for each word
        "bullet_line_fraction",  # lines that begin with • or -
        "ellipsis_line_fraction",  # lines that end in ... or …
        "alpha_word_fraction",  # words with a letter
        "stop_words",  # how many different ones of FineWeb2's fifteen for Japanese
        "line_punctuation_fraction",  # lines that end in terminal punctuation, of those that are not empty
        "duplicate_line_fraction",  # lines that stood before
        "duplicate_line_character_fraction",  # the same, in characters
        "newline_ratio",  # line ends for each word
        *(f"top_{n}gram_fraction" for n in TOP),  # characters in the most frequent word n-gram
        *(f"duplicate_{n}gram_fraction" for n in DUPLICATE),  # characters in word n-grams that stood before
    )
)
STOP_WORDS = tuple("のにをはたてがとで年し・月れさ")  # configs/jpn_Jpan.yml of fineweb-2, d0defb2
LONGEST_HIRAGANA = 2
BASE = np.uint64(0x9E3779B97F4A7C15)

SPACE, LINE_END, KANJI, KATAKANA, HIRAGANA, ALNUM, LETTER, PUNCTUATION, TERMINAL, SYMBOL = range(10)


def _kinds() -> np.ndarray:
    kinds = np.full(0x10000, SYMBOL, np.uint8)
    for c in range(0x10000):
        category = unicodedata.category(chr(c))
        if chr(c).isspace():
            kinds[c] = SPACE
        elif category[0] == "P":
            kinds[c] = PUNCTUATION
        elif category[0] == "L":
            kinds[c] = ALNUM if c < 0x250 or 0xFF00 <= c < 0xFF60 else LETTER
        elif category == "Nd":
            kinds[c] = ALNUM
    for kind, first, last in (
        (KANJI, 0x3400, 0x9FFF),
        (KANJI, 0xF900, 0xFAFF),
        (HIRAGANA, 0x3041, 0x309F),
        (KATAKANA, 0x30A1, 0x30FA),
        (KATAKANA, 0x30FC, 0x30FF),
    ):
        kinds[first : last + 1] = kind
    kinds[0x3005] = KANJI
    kinds[0x0A] = LINE_END
    kinds[[ord(c) for c in "。．！？!?.…‼⁇⁈⁉｡"]] = TERMINAL
    kinds[[ord(c) for c in "+$=^|~`<>～｜￥＋＝"]] = PUNCTUATION  # symbols to Unicode, punctuation to datatrove
    return kinds


KINDS = _kinds()
STOPS = np.array([ord(c) for c in STOP_WORDS], np.int64)


def documents(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    """N x len(NAMES)."""
    return _documents(offsets, data, KINDS, STOPS)


@kernel
def _documents(offsets: Any, data: Any, kinds: Any, stops: Any) -> Any:
    n = len(offsets) - 1
    out = np.zeros((n, 21), np.float64)
    largest = max(longest(offsets), 16)
    size = slots_for(largest)
    words = np.empty(largest, np.uint64)  # the hash of each word
    sizes = np.empty(largest, np.int32)  # its characters
    grams = np.empty(largest, np.uint64)  # the hash of the n-gram that begins with it
    active = np.empty(largest, np.int32)
    buckets = np.empty(2 * size, np.uint8)
    keys = np.zeros(size, np.uint64)
    counts = np.zeros(size, np.int32)
    for d in range(n):
        characters, number = _lines_and_words(
            offsets[d], offsets[d + 1], data, kinds, stops, words, sizes, keys, counts, out[d]
        )
        for g in range(1, min(number, 10) + 1):
            _next_grams(words, number, g, grams)
            if g in (2, 3, 4):
                count = filter_repeated(grams, number - g + 1, buckets, active)
                out[d, 10 + g] = _top(grams, active, count, sizes, g, keys, counts) / characters
            elif g > 4:
                count = filter_repeated(grams, number - g + 1, buckets, active)
                out[d, 10 + g] = _duplicate(grams, active, count, sizes, g, keys, counts) / characters
    return out


@numba.njit(nogil=True)
def _lines_and_words(
    start: int,
    stop: int,
    data: Any,
    kinds: Any,
    stops: Any,
    words: Any,
    sizes: Any,
    keys: Any,
    counts: Any,
    out: Any,
) -> Any:
    characters = hashes = dots = ellipses = line_ends = 0
    number = length = symbols = in_words = with_letter = 0
    lines = all_lines = bullets = ended_by_ellipsis = ended = repeated = in_repeated = line = 0
    met = np.zeros(len(stops), np.int64)
    word_hash = line_hash = np.uint64(1)
    lettered: Any = False
    word_kind: Any = SPACE
    last_kind: Any = SPACE
    previous = np.int64(0)
    first_visible = last_visible = np.int64(0)
    clear = slots_for(stop - start)
    counts[:clear] = 0
    mask = np.uint64(clear - 1)
    i = start
    while i <= stop:
        c, kind = np.int64(0x0A), np.uint8(LINE_END)
        if i < stop:
            c, step = decode(data, i)
            i += step
            characters += 1
            line_ends += c == 0x0A
            kind = kinds[c] if c < 0x10000 else (np.uint8(KANJI) if c >= 0x20000 else np.uint8(SYMBOL))
        else:
            i += 1
        goes_on = (
            kind == word_kind and (KANJI <= kind <= ALNUM) and not (kind == HIRAGANA and length == LONGEST_HIRAGANA)
        )
        if not goes_on:
            if length:
                words[number] = word_hash
                sizes[number] = length
                number += 1
                if word_kind == PUNCTUATION or word_kind == TERMINAL:
                    symbols += 1
                else:
                    in_words += length
                with_letter += lettered
                for s in range(len(stops)):
                    if length == 1 and previous == stops[s]:
                        met[s] = 1
            length = 0
            lettered = False
            word_hash = np.uint64(1)
            word_kind = kind
        if kind > LINE_END:
            length += 1
            digit = 0x30 <= c <= 0x39 or 0xFF10 <= c <= 0xFF19
            lettered |= KANJI <= kind <= LETTER and not digit
            word_hash = (word_hash ^ np.uint64(c)) * BASE
            word_hash ^= word_hash >> np.uint64(32)
        previous = c
        hashes += c == 0x23
        dots = dots + 1 if c == 0x2E else 0
        ellipses += dots == 3 or c == 0x2026
        if kind == LINE_END:
            if line:
                lines += 1
                bullets += first_visible == 0x2022 or first_visible == 0x2D
                ended_by_ellipsis += last_visible == 0x2026 or last_visible == -3
                ended += last_kind == TERMINAL
                at = line_hash & mask
                while counts[at] and keys[at] != line_hash:
                    at = (at + np.uint64(1)) & mask
                if counts[at]:
                    repeated += 1
                    in_repeated += line
                keys[at] = line_hash
                counts[at] = 1
            all_lines += 1
            line = 0
            line_hash = np.uint64(1)
            first_visible = last_visible = np.int64(0)
            dots = 0
        else:
            line += 1
            line_hash = (line_hash ^ np.uint64(c)) * BASE
            line_hash ^= line_hash >> np.uint64(32)
            if kind != SPACE:
                first_visible = c if first_visible == 0 else first_visible
                last_visible = np.int64(-3) if dots >= 3 else c
            last_kind = kind
    plain = max(number - symbols, 1)
    out[0] = number - symbols
    out[1] = in_words / plain
    out[2] = hashes / max(number, 1)
    out[3] = ellipses / max(number, 1)
    out[4] = bullets / all_lines
    out[5] = ended_by_ellipsis / all_lines
    out[6] = with_letter / max(number, 1)
    out[7] = met.sum()
    out[8] = ended / max(lines, 1)
    out[9] = repeated / max(lines, 1)
    out[10] = in_repeated / max(characters - line_ends, 1)
    out[11] = line_ends / max(number, 1)
    return characters, number


@numba.njit(nogil=True)
def _next_grams(words: Any, number: int, g: int, grams: Any) -> None:
    """From the hashes of all n-grams of g - 1 words those of g words."""
    for p in range(number - g + 1):
        key = grams[p] if g > 1 else np.uint64(1)
        key = (key ^ words[p + g - 1]) * BASE
        grams[p] = key ^ key >> np.uint64(32)


@numba.njit(nogil=True)
def _top(grams: Any, active: Any, count: int, sizes: Any, g: int, keys: Any, counts: Any) -> int:
    """Characters in the most frequent word n-gram, with a space between its words, as many times as it stands. Only
    those at the active positions may stand more than once."""
    size = slots_for(count)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    most, best = 1, 0
    for a in range(count):
        p = active[a]
        key = grams[p]
        at = key & mask
        while counts[at] and keys[at] != key:
            at = (at + np.uint64(1)) & mask
        keys[at] = key
        counts[at] += 1
        if counts[at] > most:
            most, best = counts[at], p
    return most * (sizes[best : best + g].sum() + g - 1)


@numba.njit(nogil=True)
def _duplicate(grams: Any, active: Any, count: int, sizes: Any, g: int, keys: Any, counts: Any) -> int:
    """Characters in word n-grams that stood before, none counted twice; after one of those the search goes on behind
    it."""
    size = slots_for(count)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    total = free = 0
    for a in range(count):
        p = active[a]
        if p < free:
            continue
        key = grams[p]
        at = key & mask
        while counts[at] and keys[at] != key:
            at = (at + np.uint64(1)) & mask
        if counts[at]:
            total += sizes[p : p + g].sum()
            free = p + g
        else:
            keys[at] = key
            counts[at] = 1
    return total
