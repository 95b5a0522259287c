"""Lists of words that are looked for in texts, all at once: an Aho-Corasick automaton (Aho and Corasick 1975) over the
bytes of UTF-8, of which a match can only begin and end at whole characters."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import buffers, decode

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = ("hits", "kinds", "characters")


@dataclass(frozen=True)
class Automaton:
    """`pairs` (65,536) tells from the hash of two characters whether a word may begin with them; `begins` (65,536) from
    that of one, two or three whether they are a word, or a longer one begins with the three. `symbols` (256) maps bytes
    to the S bytes that words are made of, 0 for all others; `next` (states x S) is the transition table. `word`
    (states) is the word that ends in a state, or -1; `shorter` (states) the longest suffix of a state in which another
    word ends, or 0. `lengths` of words are in bytes, `characters` in characters; `alone` are those that no katakana may
    stand beside."""

    pairs: np.ndarray
    begins: np.ndarray
    symbols: np.ndarray
    next: np.ndarray
    word: np.ndarray
    shorter: np.ndarray
    lengths: np.ndarray
    characters: np.ndarray
    alone: np.ndarray


def automaton(words: Sequence[str], alone_in_katakana: bool = False) -> Automaton:
    """The automaton of different words, none of them empty. With `alone_in_katakana` a word in katakana counts only
    where no other katakana stands beside it (アス is not in アスパラガス)."""
    encoded = [word.encode() for word in words]
    used = sorted({byte for word in encoded for byte in word})
    symbols = np.zeros(256, np.uint8)
    symbols[used] = range(1, len(used) + 1)
    children: list[dict[int, int]] = [{}]
    word_of = [-1]
    for number, written in enumerate(encoded):
        state = 0
        for symbol in symbols[list(written)].tolist():
            if symbol not in children[state]:
                children[state][symbol] = len(children)
                children.append({})
                word_of.append(-1)
            state = children[state][symbol]
        word_of[state] = number
    table = np.zeros((len(children), len(used) + 1), np.int32)
    shorter = np.zeros(len(children), np.int32)
    suffix = [0] * len(children)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        if state:
            table[state] = table[suffix[state]]
            shorter[state] = suffix[state] if word_of[suffix[state]] >= 0 else shorter[suffix[state]]
        for symbol, child in children[state].items():
            suffix[child] = int(table[suffix[state]][symbol]) if state else 0
            table[state][symbol] = child
            queue.append(child)
    pairs = np.zeros(1 << 16, bool)
    begins = np.zeros(1 << 16, bool)
    for word in words:
        first, second, third = ([ord(c) for c in word[:3]] + [0, 0])[:3]
        begins[_hash(first, second, third)] = True
        pairs[_hash(first, second, 0)] |= second > 0
    return Automaton(
        pairs,
        begins,
        symbols,
        table,
        np.array(word_of, np.int32),
        shorter,
        np.array([len(word) for word in encoded], np.int64),
        np.array([len(word) for word in words], np.int64),
        np.array([alone_in_katakana and all(_is_katakana(ord(c)) for c in word) for word in words], bool),
    )


def count(texts: "pa.StringArray", words: Automaton) -> np.ndarray:
    """N x 3, in the order of `COUNTS`: how often words stand in each of N texts, how many different ones, and how many
    characters they are together. Matches don't overlap: the leftmost goes first, of those the longest."""
    offsets, data = buffers(texts)
    return _count(
        offsets,
        data,
        words.pairs,
        words.begins,
        words.symbols,
        words.next,
        words.word,
        words.shorter,
        words.lengths,
        words.characters,
        words.alone,
    )


@numba.njit(inline="always")
def _hash(first: Any, second: Any, third: Any) -> Any:
    mixed = (first * 0x9E3779B1 ^ second * 0x85EBCA77) + third * 0xC2B2AE3D
    return (mixed ^ mixed >> 15) & 0xFFFF


@numba.njit(inline="always")
def _character(data: Any, i: Any, stop: Any) -> Any:
    """The character at byte `i` and the byte behind it; 0 behind the text."""
    if i >= stop:
        return np.int64(0), i
    c, length = decode(data, i)
    return c, i + length


@numba.njit(inline="always")
def _is_katakana(c: Any) -> Any:
    return 0x30A1 <= c <= 0x30F4 or c == 0x30FC


@kernel
def _count(
    offsets: Any,
    data: Any,
    pairs: Any,
    begins: Any,
    symbols: Any,
    table: Any,
    word_of: Any,
    shorter: Any,
    lengths: Any,
    characters: Any,
    alone: Any,
) -> Any:
    n = len(offsets) - 1
    out = np.zeros((n, 3), np.float64)
    met = np.full(len(lengths), -1, np.int64)  # in which text last
    matches = np.empty((64, 2), np.int64)  # the first byte of each, and the word
    for d in range(n):
        start, stop = offsets[d], offsets[d + 1]
        state = 0
        count = 0
        i = start
        while i < stop:
            if state == 0 and data[i] & 0xC0 != 0x80:
                # At its root, the automaton goes on where a word may begin.
                first, behind = _character(data, i, stop)
                while i < stop:
                    i_second = behind
                    second, behind = _character(data, behind, stop)
                    if begins[_hash(first, 0, 0)]:
                        break
                    pair = _hash(first, second, 0)
                    if pairs[pair] and (
                        begins[pair] or begins[_hash(first, second, _character(data, behind, stop)[0])]
                    ):
                        break
                    i, first = i_second, second
                if i >= stop:
                    break
            state = table[state, symbols[data[i]]]
            ending = state if word_of[state] >= 0 else shorter[state]
            while ending:
                word = word_of[ending]
                first = i + 1 - lengths[word]
                if not (alone[word] and _beside_katakana(data, start, first, i + 1, stop)):
                    if count == len(matches):
                        grown = np.empty((2 * count, 2), np.int64)
                        grown[:count] = matches
                        matches = grown
                    matches[count, 0] = first
                    matches[count, 1] = word
                    count += 1
                ending = shorter[ending]
            i += 1
        if count:
            free = start  # where the match before ended
            # By first byte, of those with the same the longest before.
            for at in np.argsort(matches[:count, 0] * (1 << 20) - lengths[matches[:count, 1]]):
                first, word = matches[at, 0], matches[at, 1]
                if first >= free:
                    free = first + lengths[word]
                    out[d, 0] += 1
                    out[d, 1] += met[word] != d
                    out[d, 2] += characters[word]
                    met[word] = d
    return out


@numba.njit(nogil=True)
def _beside_katakana(data: Any, start: int, first: int, end: int, stop: int) -> bool:
    """Whether the character before `first` or the one at `end` is katakana. All of those are three bytes long."""
    before = first - start >= 3 and data[first - 3] >> 4 == 0x0E and _is_katakana(decode(data, first - 3)[0])
    return before or (end < stop and _is_katakana(decode(data, end)[0]))
