"""Where a text may be cut before merging: the classes of characters, the two patterns, and a kernel for both.

Two pre-tokenisations are known. WORDS: a word with what hangs on it (kanji or katakana, the hiragana after them, one
closing mark), a Latin word, up to three digits, marks, layout. CLAUSES: what stands between closing marks, digits and
line ends, line end and indentation at its head. The first stage of training counts words, the second goes on over
clauses, so merges reach over the edges of words where they pay; text is then encoded by clauses (as SuperBPE does:
Liu et al., arXiv 2503.13423). Tokenizers of one stage encode by words.

All classes are explicit ranges of code points: no engine's version of Unicode matters. No pattern looks around and
every run is bounded, so each engine takes linear time, and memory that does not depend on the longest run of the text.
"""

from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel

NEWLINE, SPACE, BLANK, DIGIT, HAN, HIRAGANA, KATAKANA, LONG, LATIN, CLOSE, MARK, OTHER = range(12)
LONGEST = 256  # characters of a clause before its closing marks
RUN = 64  # of a word's parts
CLOSING, NEWLINES, DIGITS = 4, 8, 3  # at most so many closing marks at an end, line ends at a head, digits

RANGES: dict[int, str] = {
    NEWLINE: "\n\n\r\r",
    SPACE: "  ",
    BLANK: "\t\t\u3000\u3000",
    DIGIT: "09\uff10\uff19",
    # with 々 〆 〇, ヵ ヶ as in 一ヶ月, compatibility ideographs, and the planes of rare ones
    HAN: "\u3005\u3007\u303b\u303b\u30f5\u30f6\u3400\u4dbf\u4e00\u9fff\uf900\ufaff\U00020000\U0003fffd",
    HIRAGANA: "\u3041\u3096\u3099\u309f",
    KATAKANA: "\u30a1\u30f4\u30f7\u30fa\u30fd\u30ff\u31f0\u31ff\uff66\uff6f\uff71\uff9d",
    LONG: "\u30fc\u30fc\uff70\uff70\uff9e\uff9f",  # ー and half-width dakuten: part of either kana
    LATIN: "AZaz\u00c0\u00d6\u00d8\u00f6\u00f8\u024f\u0300\u036f\uff21\uff3a\uff41\uff5a",
    CLOSE: "\u3001\u3002\u300d\u300d\u300f\u300f\uff01\uff01\uff09\uff09\uff0c\uff0c\uff0e\uff0e\uff1f\uff1f",
    MARK: "!/:@[`{~\u00a1\u00bf\u00d7\u00d7\u00f7\u00f7\u2010\u2bff\u3003\u3004\u3008\u300c\u300e\u300e\u3010\u3020"
    "\u3030\u3030\u303d\u303f\u30a0\u30a0\u30fb\u30fb\uff02\uff08\uff0a\uff0b\uff0d\uff0d\uff0f\uff0f\uff1a\uff1e"
    "\uff20\uff20\uff3b\uff40\uff5b\uff65",
}


def _set(*classes: int, negated: bool = False) -> str:
    """A bracket expression."""
    spelt = ""
    for which in classes:
        ranges = RANGES[which]
        for first, last in zip(ranges[::2], ranges[1::2], strict=True):
            spelt += _escaped(first) + (f"-{_escaped(last)}" if first != last else "")
    return f"[{'^' * negated}{spelt}]"


def _escaped(character: str) -> str:
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    return named.get(character, f"\\{character}" if character in "![/:@`{~" else character)


_NAMED = (NEWLINE, SPACE, BLANK, DIGIT, HAN, HIRAGANA, KATAKANA, LONG, LATIN, CLOSE, MARK)
CLAUSES = "|".join(
    (
        f"{_set(NEWLINE)}{{0,{NEWLINES}}}{_set(NEWLINE, DIGIT, CLOSE, negated=True)}{{1,{LONGEST}}}"
        f"{_set(CLOSE)}{{0,{CLOSING}}}",
        f"{_set(NEWLINE)}{{1,{NEWLINES}}}",
        f"{_set(CLOSE)}{{1,{CLOSING}}}",
        f"{_set(DIGIT)}{{1,{DIGITS}}}",
    )
)
_KANA, _MORE = _set(KATAKANA, LONG), _set(HIRAGANA, LONG)
WORDS = "|".join(
    (
        f"{_KANA}{{1,{RUN}}}{_MORE}{{0,{RUN}}}{_set(CLOSE)}{{0,1}}",
        f"{_set(HAN)}{{1,{RUN}}}{_MORE}{{0,{RUN}}}{_set(CLOSE)}{{0,1}}",
        f"{_set(HIRAGANA)}{_MORE}{{0,{RUN}}}{_set(CLOSE)}{{0,1}}",
        f"{_set(LATIN)}{{1,{RUN}}}",
        f"{_set(SPACE)}{_set(LATIN)}{{1,{RUN}}}",
        f"{_set(MARK)}{_set(LATIN)}{{1,{RUN}}}",
        f"{_set(DIGIT)}{{1,{DIGITS}}}",
        f"{_set(NEWLINE)}{{1,{NEWLINES}}}{_set(SPACE, BLANK)}{{0,{RUN}}}",
        f"{_set(CLOSE)}{{1,{CLOSING}}}",
        f"{_set(MARK)}{{1,{RUN}}}",
        f"{_set(SPACE, BLANK)}{{1,{RUN}}}",
        f"{_set(*_NAMED, negated=True)}{{1,{RUN}}}",
    )
)
PATTERNS = {"words": WORDS, "clauses": CLAUSES}


def _classes() -> np.ndarray:
    table = np.full(0x10000, OTHER, np.uint8)
    for which, ranges in RANGES.items():
        for first, last in zip(ranges[::2], ranges[1::2], strict=True):
            table[ord(first) : ord(last) + 1] = which
    return table


CLASS = _classes()  # of the basic plane; see `class_of` for the rest


@numba.njit(inline="always")
def class_of(table: Any, point: Any) -> Any:
    if point < 0x10000:
        return table[point]
    return np.uint8(HAN) if 0x20000 <= point <= 0x3FFFD else np.uint8(OTHER)


@kernel
def end_of_piece(classes: Any, i: int, stop: int, by_clauses: bool) -> Any:
    """Where the piece that begins at `i` ends. `classes`: uint8, one a character."""
    c = classes[i]
    if c == DIGIT:
        j = i + 1
        while j < stop and j < i + DIGITS and classes[j] == DIGIT:
            j += 1
        return j
    if c == CLOSE:
        j = i + 1
        while j < stop and j < i + CLOSING and classes[j] == CLOSE:
            j += 1
        return j
    if by_clauses:
        j = i
        while j < stop and j < i + NEWLINES and classes[j] == NEWLINE:
            j += 1
        begin = j
        while j < stop and j < begin + LONGEST:
            c = classes[j]
            if c == NEWLINE or c == DIGIT or c == CLOSE:
                break
            j += 1
        if j == begin:
            return j
        begin = j
        while j < stop and j < begin + CLOSING and classes[j] == CLOSE:
            j += 1
        return j
    if c == NEWLINE:
        j = i + 1
        while j < stop and j < i + NEWLINES and classes[j] == NEWLINE:
            j += 1
        begin = j
        while j < stop and j < begin + RUN and (classes[j] == SPACE or classes[j] == BLANK):
            j += 1
        return j
    if c == HAN or c == HIRAGANA or c == KATAKANA or c == LONG:
        j = i + 1
        if c == HAN:
            while j < stop and j < i + RUN and classes[j] == HAN:
                j += 1
        elif c != HIRAGANA:
            while j < stop and j < i + RUN and (classes[j] == KATAKANA or classes[j] == LONG):
                j += 1
        begin = j
        while j < stop and j < begin + RUN and (classes[j] == HIRAGANA or classes[j] == LONG):
            j += 1
        if j < stop and classes[j] == CLOSE:
            j += 1
        return j
    return _end_of_other(classes, i, stop)


@kernel
def _end_of_other(classes: Any, i: int, stop: int) -> Any:
    """Of a piece by WORDS that begins with a blank, a mark, a Latin or another letter."""
    c = classes[i]
    j = i + 1
    if c == SPACE or c == MARK:
        while j < stop and j < i + 1 + RUN and classes[j] == LATIN:
            j += 1
        if j > i + 1:
            return j
    kind = BLANK if c == SPACE else c
    while j < stop and j < i + RUN and (classes[j] == kind or (kind == BLANK and classes[j] == SPACE)):
        j += 1
    return j
