"""What rules judge a text by. A statistic is a column of a float64 matrix (documents x statistics); those that a recipe
asks for are computed, by one kernel a family:

- Kiban's own, in one pass over the characters, sentences and lines (below), and one over the 10-grams (`ngrams.py`).
  Shares are of the characters that are no spaces, unless said otherwise; a share of nothing is 0.
- `swallow.*`: the features of Swallow's `quality.py`, under its names (`swallow.py`, `ngrams.py`).
- `hojichar.*`, `zlib_ratio`, `lz4_ratio`: what HojiChar, llm-jp-corpus and uzushio look at (`hojichar.py`).
- `gopher.*`: the rules of Gopher and FineWeb over words (`gopher.py`).

Rates: `benchmarks/corpus.py`.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus import gopher, hojichar, ngrams, swallow
from kiban.corpus.utf8 import buffers, decode, longest, slots_for

if TYPE_CHECKING:
    import pyarrow as pa

OWN = (
    "characters",  # code points, spaces and line ends included
    "japanese_characters",  # hiragana, katakana, kanji
    "japanese_share",
    "hiragana_share",  # of the Japanese characters
    "katakana_share",  # of the Japanese characters
    "kana_share",  # hiragana and katakana, of the Japanese characters
    "digit_share",
    "mojibake_share",  # characters that UTF-8 read as CP932 or Latin-1 gives, and U+FFFD
    "longest_run",  # of one letter or digit; rules and leaders (---, ……) are none
    "sentences",  # ended by 。！？!? or a line end
    "mean_sentence",  # characters
    "longest_sentence",  # characters
    "lines",  # that are not empty
    "duplicate_line_share",  # lines of 5 characters or more that stood before, of all those lines
    "ellipsis_line_share",  # lines that end in … or ... or ・・・, of all lines
)
SHORTEST_LINE = 5

# What a character is, as far as the pass asks.
SPACE, LINE_END, END, ELLIPSIS, DOT = 1, 2, 3, 4, 5
HIRAGANA, KATAKANA, KANJI, DIGIT, BROKEN, BROKEN_KANJI = 6, 7, 8, 9, 10, 11


def _kinds() -> np.ndarray:
    kinds = np.zeros(0x10000, np.uint8)
    for kind, ranges in (
        # What kana and kanji in UTF-8 become when they are read as Latin-1 and Windows-1252: accented letters in a row.
        (BROKEN, [(0xC0, 0xFF), (0xFFFD, 0xFFFD)]),
        (0, [(0xD7, 0xD7), (0xF7, 0xF7)]),  # × ÷
        (HIRAGANA, [(0x3041, 0x309F)]),
        (KATAKANA, [(0x30A1, 0x30FF)]),
        (KANJI, [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x3005, 0x3005)]),
        (DIGIT, [(0x30, 0x39), (0xFF10, 0xFF19)]),
    ):
        for first, last in ranges:
            kinds[first : last + 1] = kind
    for kind, characters in (
        (SPACE, " \t　"),
        (LINE_END, "\n"),
        (END, "。！？!?"),
        (ELLIPSIS, "…"),
        (DOT, ".・"),
        # What they become when read as CP932: 縺 繧 繝 are their lead bytes, and hardly any text holds those.
        (BROKEN_KANJI, "縺繧繝譁蟄邵郢隴鬟縲"),
    ):
        kinds[[ord(c) for c in characters]] = kind
    return kinds


KINDS = _kinds()

# Families: the names of the columns, and the kernel or function of (offsets, bytes) that gives them.
FAMILIES = (
    (OWN, lambda offsets, data: _own(offsets, data, KINDS)),
    (ngrams.KIBAN, ngrams.kiban),
    (swallow.NAMES, swallow.documents),
    (ngrams.SWALLOW, ngrams.swallow),
    (hojichar.NAMES, hojichar.documents),
    (ngrams.HOJICHAR, ngrams.hojichar),
    (hojichar.BBS, hojichar.bbs_matches),
    (hojichar.ZLIB, hojichar.zlib_ratio),
    (hojichar.LZ4, hojichar.lz4_ratio),
    (gopher.NAMES, gopher.documents),
)
NAMES = tuple(name for names, _ in FAMILIES for name in names)


def statistics(texts: "pa.StringArray", names: Collection[str] = NAMES) -> dict[str, np.ndarray]:
    """The statistics of N texts that are asked for: a column (N, float64) for each name."""
    offsets, data = buffers(texts)
    found: dict[str, np.ndarray] = {}
    for columns, compute in FAMILIES:
        if not set(columns).isdisjoint(names):
            figures = compute(offsets, data)
            found |= {name: figures[:, at] for at, name in enumerate(columns) if name in names}
    return found


@kernel
def _own(offsets: Any, data: Any, kinds: Any) -> Any:
    n = len(offsets) - 1
    out = np.zeros((n, 15), np.float64)
    size = slots_for(longest(offsets) // SHORTEST_LINE)
    # A set of lines, by open addressing: an entry counts if its stamp is the document's.
    keys = np.zeros(size, np.uint64)
    stamps = np.zeros(size, np.int32)
    for d in range(n):
        _pass(offsets[d], offsets[d + 1], data, kinds, keys, stamps, d + 1, out[d])
    return out


@numba.njit(nogil=True)
def _pass(start: int, stop: int, data: Any, kinds: Any, keys: Any, stamps: Any, stamp: int, out: Any) -> None:
    number = np.zeros(12, np.int64)  # of each kind
    run = longest_run = 0
    characters = visible = 0  # so far
    sentence_start = line_start = 0  # in visible characters
    sentences = in_sentences = longest_sentence = 0
    lines = counted_lines = repeated_lines = ellipses = 0
    previous = np.int64(-1)
    dots = 0  # at the end of the line so far
    line_hash = np.uint64(0)
    mask = np.uint64(len(keys) - 1)
    i = start
    while i <= stop:
        if i < stop:
            c, length = decode(data, i)
            i += length
            kind = kinds[c] if c < 0x10000 else (KANJI if c >= 0x20000 else 0)
            number[kind] += 1
            characters += 1
        else:
            c = np.int64(0x0A)  # the text's end ends its last line
            kind = LINE_END
            i += 1
        if kind == END or kind == LINE_END:
            sentence = visible - sentence_start
            if sentence:
                sentences += 1
                in_sentences += sentence
                longest_sentence = max(longest_sentence, sentence)
            sentence_start = visible + (kind == END)
        if kind == LINE_END:
            line = visible - line_start
            if line:
                lines += 1
                ellipses += dots >= 3
                if line >= SHORTEST_LINE:
                    counted_lines += 1
                    at = (line_hash ^ line_hash >> np.uint64(31)) & mask
                    while stamps[at] == stamp and keys[at] != line_hash:
                        at = (at + np.uint64(1)) & mask
                    repeated_lines += stamps[at] == stamp
                    keys[at] = line_hash
                    stamps[at] = stamp
            line_start = visible
            line_hash = np.uint64(0)
            dots = 0
        elif kind != SPACE:
            visible += 1
            line_hash = (line_hash ^ np.uint64(c)) * np.uint64(0x9E3779B97F4A7C15)
            line_hash ^= line_hash >> np.uint64(29)
            if kind == ELLIPSIS:
                dots += 3
            elif kind == DOT:
                dots += 1
            elif dots and c != 0x3002:
                dots = 0
        run = run + 1 if c == previous else 1
        previous = c
        if run > longest_run and (c >= 0x3041 or 0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A):
            longest_run = run
    seen = max(visible, 1)
    hiragana, katakana = number[HIRAGANA], number[KATAKANA]
    japanese = hiragana + katakana + number[KANJI] + number[BROKEN_KANJI]
    out[0] = characters
    out[1] = japanese
    out[2] = japanese / seen
    out[3] = hiragana / max(japanese, 1)
    out[4] = katakana / max(japanese, 1)
    out[5] = (hiragana + katakana) / max(japanese, 1)
    out[6] = number[DIGIT] / seen
    out[7] = (number[BROKEN] + number[BROKEN_KANJI]) / seen
    out[8] = longest_run
    out[9] = sentences
    out[10] = in_sentences / max(sentences, 1)
    out[11] = longest_sentence
    out[12] = lines
    out[13] = repeated_lines / max(counted_lines, 1)
    out[14] = ellipses / max(lines, 1)
