"""What rules judge a text by: one pass over the bytes for characters, sentences and lines, one over its n-grams.

Every statistic is a column of a float64 matrix (documents x `NAMES`). Shares are of the characters that are no spaces,
unless said otherwise; a share of nothing is 0. Rates of both passes together: `benchmarks/`.
"""

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.corpus.utf8 import buffers, decode, kernel

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = (
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
    "repeated_10gram_share",  # character 10-grams that stood before, of all 10-grams
)
COLUMNS = len(NAMES)
NGRAM = 10
SHORTEST_LINE = 5

# What kana and kanji in UTF-8 become when they are read as CP932 (縺 繧 繝 are their lead bytes, and hardly any text
# holds those characters) or as Latin-1 and Windows-1252 (accented letters in a row).
MOJIBAKE = np.zeros(0x10000, bool)
MOJIBAKE[[ord(c) for c in "縺繧繝譁蟄邵郢隴鬟縲\ufffd"]] = True
MOJIBAKE[0xC0:0x100] = True
MOJIBAKE[[ord(c) for c in "×÷"]] = False


def statistics(texts: "pa.StringArray") -> np.ndarray:
    """The matrix of statistics, N x len(NAMES), of N texts."""
    offsets, data = buffers(texts)
    return _statistics(offsets, data, MOJIBAKE)


@kernel
def _statistics(offsets: Any, data: Any, mojibake: Any) -> Any:
    n = len(offsets) - 1
    out = np.zeros((n, COLUMNS), np.float64)
    largest = 0
    for d in range(n):
        largest = max(largest, offsets[d + 1] - offsets[d])
    size = 16
    while size < 2 * largest:
        size *= 2
    # Open-addressing sets, for lines and for n-grams: an entry counts if its stamp is the document's.
    keys = np.zeros(size, np.uint64)
    stamps = np.zeros(size, np.int32)
    for d in range(n):
        _first_pass(d, offsets[d], offsets[d + 1], data, mojibake, out, keys, stamps, 2 * d + 1)
        out[d, 15] = _repeated(offsets[d], offsets[d + 1], data, keys, stamps, 2 * d + 2)
    return out


@numba.njit(nogil=True)
def _first_pass(
    d: int, start: int, stop: int, data: Any, mojibake: Any, out: Any, keys: Any, stamps: Any, stamp: int
) -> None:
    characters = hiragana = katakana = kanji = digits = broken = spaces = 0
    run = longest_run = 0
    sentences = sentence = longest_sentence = in_sentences = 0
    lines = line = counted_lines = repeated_lines = ellipses = 0
    previous = np.int64(-1)
    tail_dots = 0
    line_hash = np.uint64(0)
    mask = np.uint64(_size_for(stop - start) - 1)
    i = start
    while i <= stop:
        if i < stop:
            c, length = decode(data, i)
            i += length
            characters += 1
        else:
            c = np.int64(0x0A)  # the text's end ends its last line
            i += 1
        ends_line = c == 0x0A
        if ends_line or c == 0x3002 or c == 0xFF01 or c == 0xFF1F or c == 0x21 or c == 0x3F:
            if sentence:
                sentences += 1
                in_sentences += sentence
                longest_sentence = max(longest_sentence, sentence)
            sentence = 0
        elif c != 0x20 and c != 0x3000 and c != 0x09:
            sentence += 1
        if ends_line:
            if line:
                lines += 1
                ellipses += tail_dots >= 3
                if line >= SHORTEST_LINE:
                    counted_lines += 1
                    repeated_lines += _seen(keys, stamps, stamp, line_hash, mask)
            line = 0
            line_hash = np.uint64(0)
            tail_dots = 0
            spaces += i <= stop
        elif c == 0x20 or c == 0x3000 or c == 0x09:
            spaces += 1
        else:
            line += 1
            line_hash = (line_hash ^ np.uint64(c)) * np.uint64(0x9E3779B97F4A7C15)
            line_hash ^= line_hash >> np.uint64(29)
            if c == 0x2026:
                tail_dots += 3
            elif c == 0x2E or c == 0x30FB or c == 0x3002 and tail_dots:
                tail_dots += c != 0x3002
            else:
                tail_dots = 0
            if 0x3041 <= c <= 0x309F:
                hiragana += 1
            elif 0x30A1 <= c <= 0x30FF and c != 0x30FB:
                katakana += 1
            elif 0x4E00 <= c <= 0x9FFF or 0x3400 <= c <= 0x4DBF or 0xF900 <= c <= 0xFAFF or c == 0x3005 or c >= 0x20000:
                kanji += 1
            elif 0x30 <= c <= 0x39 or 0xFF10 <= c <= 0xFF19:
                digits += 1
            if c >= 0xC3:
                broken += c < len(mojibake) and mojibake[c]
        run = run + 1 if c == previous else 1
        previous = c
        if c >= 0x3041 or 0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A:
            longest_run = max(longest_run, run)
    seen = max(characters - spaces, 1)
    japanese = hiragana + katakana + kanji
    out[d, 0] = characters
    out[d, 1] = japanese
    out[d, 2] = japanese / seen
    out[d, 3] = hiragana / max(japanese, 1)
    out[d, 4] = katakana / max(japanese, 1)
    out[d, 5] = (hiragana + katakana) / max(japanese, 1)
    out[d, 6] = digits / seen
    out[d, 7] = broken / seen
    out[d, 8] = longest_run
    out[d, 9] = sentences
    out[d, 10] = in_sentences / max(sentences, 1)
    out[d, 11] = longest_sentence
    out[d, 12] = lines
    out[d, 13] = repeated_lines / max(counted_lines, 1)
    out[d, 14] = ellipses / max(lines, 1)


@numba.njit(nogil=True)
def _repeated(start: int, stop: int, data: Any, keys: Any, stamps: Any, stamp: int) -> float:
    """The share of character 10-grams (spaces and line ends left out) that stood in the text before."""
    mask = np.uint64(_size_for(stop - start) - 1)
    window = np.zeros(NGRAM, np.int64)
    base = np.uint64(0x100000001B3)
    leaving = np.uint64(1)
    for _ in range(NGRAM):
        leaving *= base
    rolling = np.uint64(0)
    count = grams = repeated = 0
    i = start
    while i < stop:
        c, length = decode(data, i)
        i += length
        if c == 0x20 or c == 0x3000 or c == 0x0A or c == 0x09:
            continue
        rolling = rolling * base + np.uint64(c) - leaving * np.uint64(window[count % NGRAM])
        window[count % NGRAM] = c
        count += 1
        if count >= NGRAM:
            grams += 1
            mixed = (rolling ^ (rolling >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
            mixed ^= mixed >> np.uint64(33)
            repeated += _seen(keys, stamps, stamp, mixed, mask)
    return repeated / max(grams, 1)


@numba.njit(inline="always")
def _size_for(length: int) -> int:
    """A power of two with room for as many keys as there are bytes."""
    size = 16
    while size < 2 * length:
        size *= 2
    return size


@numba.njit(inline="always")
def _seen(keys: Any, stamps: Any, stamp: int, key: Any, mask: Any) -> bool:
    """Whether `key` was met under this stamp before; it is from now on."""
    at = key & mask
    while stamps[at] == stamp:
        if keys[at] == key:
            return True
        at = (at + np.uint64(1)) & mask
    keys[at] = key
    stamps[at] = stamp
    return False
