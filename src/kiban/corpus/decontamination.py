"""Texts of evaluation sets must not be trained on: documents that hold one are found by character 13-grams.

Spaces and the width of letters and digits don't count; dakuten do. A sentence's end, a line's end and a quotation mark
are all one boundary, and an evaluation text has one on either side, so one of 11 characters still makes a gram. Shorter
ones are everyday phrases in most sets and are not looked for; in the sets that ask for it, they are looked for as whole
sentences. A document is contaminated if it holds at least `SHARE` of the different grams of one text.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.normalise import normalise
from kiban.corpus.utf8 import buffers, decode

if TYPE_CHECKING:
    import pyarrow as pa

NGRAM = 13
SHARE = 0.8
SHORTEST_SENTENCE, LONGEST_SENTENCE = 6, NGRAM - 3  # one of 11 characters is a gram with its boundaries
SIEVE_BITS = 24
SIEVE_SHIFT = np.uint64(64 - (SIEVE_BITS - 3))  # the high bits say which byte, the lowest which bit
BASE = np.uint64(0x9E3779B97F4A7C15)
SENTENCE = np.uint64(0x2545F4914F6CDD1D)
BOUNDARY = 0x3002
BOUNDARIES = np.zeros(0x10000, bool)  # by code point
BOUNDARIES[[ord(c) for c in "\n。！？!?「」『』（）()：:"]] = True


@dataclass(frozen=True)
class Grams:
    """Where grams lead to. `table` (S, a power of two) holds the number of a gram plus one, 0 where it is free,
    placed by open addressing; `grams` (G, uint64) their hashes; gram g is in the texts `items[starts[g]:starts[g +
    1]]`. Of text t, `needed[t]` different grams make a contamination, out of `sizes[t]`. The texts themselves are
    `data`, from `offsets[t]` to `offsets[t + 1]`."""

    table: np.ndarray
    grams: np.ndarray
    starts: np.ndarray
    items: np.ndarray
    needed: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    data: np.ndarray

    def text(self, number: int) -> str:
        return self.data[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()


def numbered(texts: Iterable[str]) -> list[str]:
    """Different texts in the order in which they are numbered."""
    return sorted(set(texts))


def grams_of(texts: Iterable[str], short: Collection[str] = ()) -> Grams:
    """The grams of evaluation texts, ready to be looked for. Those of `short` may be as short as 6 characters."""
    import pyarrow as pa

    short = set(short)
    listed = numbered(chain(texts, short))
    may_be_short = np.array([text in short for text in listed], bool)
    offsets, data = buffers(normalise(pa.array(listed, pa.string())))
    pairs = _all_grams(offsets, data, BOUNDARIES, may_be_short)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    pairs = pairs[np.concatenate([np.ones(min(len(pairs), 1), bool), (pairs[1:] != pairs[:-1]).any(axis=1)])]
    grams, begins = np.unique(pairs[:, 0], return_index=True)
    size = 16
    while size < 4 * len(grams):
        size *= 2
    sizes = np.bincount(pairs[:, 1].astype(np.int64), minlength=len(offsets) - 1)
    return Grams(
        _place(grams, size),
        grams,
        np.append(begins, len(pairs)).astype(np.int64),
        pairs[:, 1].astype(np.int64),
        np.maximum(np.ceil(SHARE * sizes - 1e-9), 1).astype(np.int64),
        sizes,
        offsets,
        data,
    )


def held(texts: "pa.StringArray", grams: Grams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of N texts hold which evaluation texts: the number of the text, that of the evaluation text, and the share
    of its grams that is held, `SHARE` or more; in the order of both numbers."""
    offsets, data = buffers(texts)
    rows, items, shares = _held(
        offsets, data, BOUNDARIES, grams.table, grams.grams, grams.starts, grams.items, grams.needed, grams.sizes
    )
    order = np.lexsort((items, rows))
    return rows[order], items[order], shares[order]


def contamination(texts: "pa.StringArray", grams: Grams) -> tuple[np.ndarray, np.ndarray]:
    """For each of N texts the share of an evaluation text's grams that it holds, 0 if that is below `SHARE`, and the
    number of that evaluation text: the one it holds most of, the first of equals."""
    rows, items, shares = held(texts, grams)
    best = np.zeros(len(texts), np.float64)
    which = np.zeros(len(texts), np.int64)
    order = np.lexsort((-items, shares, rows))  # the last of each row is its best
    best[rows[order]], which[rows[order]] = shares[order], items[order]
    return best, which


@numba.njit(nogil=True)
def _next(data: Any, i: int, stop: int, boundaries: Any, at_boundary: bool) -> Any:
    """The next symbol of a text from byte `i` on, and where the one after it begins; symbol 0 if there is none."""
    while i < stop:
        c, length = decode(data, i)
        i += length
        if c == 0x20 or c == 0x09 or c == 0x3000:
            continue
        if c < 0x10000 and boundaries[c]:
            if at_boundary:
                continue
            return np.int64(BOUNDARY), i
        if 0xFF10 <= c <= 0xFF19 or 0xFF21 <= c <= 0xFF3A or 0xFF41 <= c <= 0xFF5A:
            c -= 0xFEE0
        return c, i
    return np.int64(0), i


@numba.njit(nogil=True)
def _hashes(data: Any, start: int, stop: int, boundaries: Any, out: Any) -> int:
    """Writes the hashes of a text's grams to `out`, a boundary put before and behind; gives how many they are."""
    window = np.zeros(NGRAM, np.uint64)
    leaving = np.uint64(1)
    for _ in range(NGRAM):
        leaving *= BASE
    rolling = np.uint64(BOUNDARY)
    window[0] = np.uint64(BOUNDARY)
    count = 1
    at_boundary = True
    i = start
    while True:
        c, i = _next(data, i, stop, boundaries, at_boundary)
        ended = c == 0
        if ended:
            if at_boundary:
                break
            c = np.int64(BOUNDARY)
        rolling = rolling * BASE + np.uint64(c) - leaving * window[count % NGRAM]
        window[count % NGRAM] = np.uint64(c)
        count += 1
        at_boundary = c == BOUNDARY
        if count >= NGRAM:
            mixed = (rolling ^ (rolling >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            out[count - NGRAM] = mixed ^ (mixed >> np.uint64(32))
        if ended:
            break
    return max(count - NGRAM + 1, 0)


@numba.njit(nogil=True)
def _sentence_hashes(data: Any, start: int, stop: int, boundaries: Any, out: Any) -> int:
    """Writes the hashes of a text's short sentences to `out`; gives how many they are."""
    count = length = 0
    rolling = SENTENCE
    at_boundary = True
    i = start
    while True:
        c, i = _next(data, i, stop, boundaries, at_boundary)
        at_boundary = c == 0 or c == BOUNDARY
        if at_boundary:
            if SHORTEST_SENTENCE <= length <= LONGEST_SENTENCE:
                out[count] = (rolling ^ (rolling >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
                count += 1
            if c == 0:
                return count
            length = 0
            rolling = SENTENCE
        else:
            rolling = rolling * BASE + np.uint64(c)
            length += 1


@kernel
def _all_grams(offsets: Any, data: Any, boundaries: Any, may_be_short: Any) -> Any:
    """(gram, text) of all texts, uint64."""
    pairs = np.empty((offsets[-1] - offsets[0] + 2 * len(offsets), 2), np.uint64)
    room = np.empty(offsets[-1] - offsets[0] + 2, np.uint64)
    total = 0
    for t in range(len(offsets) - 1):
        count = _hashes(data, offsets[t], offsets[t + 1], boundaries, room)
        if count == 0 and may_be_short[t]:
            count = _sentence_hashes(data, offsets[t], offsets[t + 1], boundaries, room)
        for g in range(count):
            pairs[total, 0] = room[g]
            pairs[total, 1] = np.uint64(t)
            total += 1
    return pairs[:total]


@kernel
def _place(grams: Any, size: int) -> Any:
    table = np.zeros(size, np.int64)
    mask = np.uint64(size - 1)
    for g in range(len(grams)):
        at = grams[g] & mask
        while table[at]:
            at = (at + np.uint64(1)) & mask
        table[at] = g + 1
    return table


@kernel
def _held(
    offsets: Any, data: Any, boundaries: Any, table: Any, grams: Any, starts: Any, items: Any, needed: Any, sizes: Any
) -> Any:
    n = len(offsets) - 1
    rows, found, shares = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)], [0.0 for _ in range(0)]
    longest = 0
    for d in range(n):
        longest = max(longest, offsets[d + 1] - offsets[d])
    room = np.empty(2 * longest + 2, np.uint64)
    gram_seen = np.full(len(grams), -1, np.int64)  # in which document last
    item_seen = np.full(len(needed), -1, np.int64)
    count_of = np.zeros(len(needed), np.int64)
    touched = np.empty(len(needed), np.int64)
    sieve = np.zeros(1 << (SIEVE_BITS - 3), np.uint8)  # stays in the cache, where the table does not
    for g in range(len(grams)):
        sieve[grams[g] >> SIEVE_SHIFT] |= np.uint8(1) << (grams[g] & np.uint64(7))
    mask = np.uint64(len(table) - 1)
    for d in range(n):
        count = _hashes(data, offsets[d], offsets[d + 1], boundaries, room)
        count += _sentence_hashes(data, offsets[d], offsets[d + 1], boundaries, room[count:])
        num_touched = 0
        for h in range(count):
            if not sieve[room[h] >> SIEVE_SHIFT] & np.uint8(1) << (room[h] & np.uint64(7)):
                continue
            at = room[h] & mask
            while table[at] and grams[table[at] - 1] != room[h]:
                at = (at + np.uint64(1)) & mask
            g = table[at] - 1
            if g < 0 or gram_seen[g] == d:
                continue
            gram_seen[g] = d
            for s in range(starts[g], starts[g + 1]):
                item = items[s]
                if item_seen[item] != d:
                    item_seen[item] = d
                    count_of[item] = 0
                    touched[num_touched] = item
                    num_touched += 1
                count_of[item] += 1
        for t in range(num_touched):
            item = touched[t]
            if count_of[item] >= needed[item]:
                rows.append(np.int64(d))
                found.append(item)
                shares.append(count_of[item] / sizes[item])
    return np.array(rows), np.array(found), np.array(shares)
