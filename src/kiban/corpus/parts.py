"""Parts of documents that stand elsewhere too: whole paragraphs, and spans of text wherever they begin.

Both are found by hashes of parts, which each piece of a source gives with its documents. A paragraph is a line of so
many characters or more. For spans, the hashes of all k-grams would be as many as characters, so they are winnowed
(Schleimer, Wilkerson and Aiken 2003): of k neighbouring k-grams the one with the least hash is taken, wherever the text
stands. Two texts that share 2k - 1 characters share one of them, and neighbouring ones leave no gap. With k = L / 4,
every repeated span of L characters is found, but for at most k characters at either end, and none that is shorter than
L / 2. Spaces and line ends don't count.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import buffers, decode, longest, strings

if TYPE_CHECKING:
    import pyarrow as pa

BASE = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Parts:
    """P parts of texts, in the order of texts and of places: the hash of each (P, uint64), and `places` (P x 4, int32):
    the number of its text, first byte, byte behind it, and how many characters stand before it."""

    hashes: np.ndarray
    places: np.ndarray


def paragraphs(texts: "pa.StringArray", characters: int) -> Parts:
    """The lines of N texts that have so many characters or more, their line end included in the place."""
    return Parts(*_paragraphs(*buffers(texts), characters))


def spans(texts: "pa.StringArray", characters: int) -> Parts:
    """Winnowed k-grams of N texts, for repeated spans of so many characters."""
    return Parts(*_winnowed(*buffers(texts), characters // 4))


def repeated(parts: Parts, rank: np.ndarray) -> np.ndarray:
    """Which of P parts (bool) stand in a document of lower rank, or before in the same. `rank` (N) is of the
    documents that `parts.places` counts; documents with a negative rank are not there."""
    document = parts.places[:, 0]
    there = np.flatnonzero(rank[document] >= 0)
    order = there[np.lexsort((parts.places[there, 1], rank[document[there]], parts.hashes[there]))]
    out = np.zeros(len(document), bool)
    out[order[1:]] = parts.hashes[order[1:]] == parts.hashes[order[:-1]]
    return out


def joined(parts: Parts, which: np.ndarray, characters: int) -> np.ndarray:
    """The places (M x 3, int32: text, first byte, byte behind) that the winnowed k-grams `which` (bool) cover, those
    that touch joined, and those shorter than half of `characters` left out."""
    return _joined(parts.places[which], characters // 4, characters // 2)


def united(places: np.ndarray) -> np.ndarray:
    """Places (M x 3) in order, those that overlap or touch made one."""
    places = places[np.lexsort((places[:, 2], places[:, 1], places[:, 0]))]
    return _united(places) if len(places) else places


def cut(texts: "pa.StringArray", places: np.ndarray) -> "pa.StringArray":
    """N texts without M places (M x 3, in the order of texts and bytes, none overlapping)."""
    return strings(*_cut(*buffers(texts), places))


@kernel
def _paragraphs(offsets: Any, data: Any, characters: int) -> Any:
    hashes = np.empty(64, np.uint64)
    places = np.empty((64, 4), np.int32)
    count = 0
    for d in range(len(offsets) - 1):
        begin, stop = offsets[d], offsets[d + 1]
        i = line = begin
        length = before = 0
        key = np.uint64(1)
        while i <= stop:
            c, step = np.int64(0x0A), np.int64(1)
            if i < stop:
                c, step = decode(data, i)
            i += step
            if c == 0x0A:
                if length >= characters:
                    hashes, places = _room(hashes, places, count)
                    hashes[count] = key * MIX
                    places[count, 0] = d
                    places[count, 1] = line - begin
                    places[count, 2] = min(i, stop) - begin
                    places[count, 3] = before
                    count += 1
                before += length
                length = 0
                key = np.uint64(1)
                line = i
            elif c != 0x20 and c != 0x3000 and c != 0x09:
                length += 1
                key = (key ^ np.uint64(c)) * BASE
                key ^= key >> np.uint64(32)
    return hashes[:count], places[:count]


@kernel
def _winnowed(offsets: Any, data: Any, k: int) -> Any:
    hashes = np.empty(64, np.uint64)
    places = np.empty((64, 4), np.int32)
    count = 0
    largest = longest(offsets)
    text = np.empty(largest, np.uint64)
    at = np.empty(largest, np.int32)  # the byte behind each character
    grams = np.empty(largest, np.uint64)
    leaving = np.uint64(1)
    for _ in range(k):
        leaving *= BASE
    for d in range(len(offsets) - 1):
        begin, stop = offsets[d], offsets[d + 1]
        length = 0
        rolling = np.uint64(0)
        i = begin
        while i < stop:
            c, step = decode(data, i)
            i += step
            if c == 0x20 or c == 0x0A or c == 0x3000 or c == 0x09:
                continue
            text[length] = np.uint64(c)
            at[length] = i - begin
            rolling = rolling * BASE + np.uint64(c)
            if length >= k:
                rolling -= leaving * text[length - k]
            length += 1
            if length >= k:
                grams[length - k] = (rolling ^ rolling >> np.uint64(32)) * MIX
        least = -1  # the gram taken last
        for last in range(k - 1, length - k + 1):  # the last gram of each k
            first = last - k + 1
            if least >= first:
                taken = last if grams[last] <= grams[least] else least
            else:
                taken = first
                for g in range(first + 1, last + 1):
                    if grams[g] <= grams[taken]:
                        taken = g
            if taken != least:
                least = taken
                hashes, places = _room(hashes, places, count)
                hashes[count] = grams[taken]
                places[count, 0] = d
                places[count, 1] = at[taken] - _width(text[taken])
                places[count, 2] = at[taken + k - 1]
                places[count, 3] = taken
                count += 1
    return hashes[:count], places[:count]


@numba.njit(inline="always")
def _width(c: Any) -> Any:
    return 1 + (c >= 0x80) + (c >= 0x800) + (c >= 0x10000)


@numba.njit(nogil=True)
def _room(hashes: Any, places: Any, count: int) -> Any:
    if count < len(hashes):
        return hashes, places
    more_hashes = np.empty(2 * count, np.uint64)
    more_places = np.empty((2 * count, 4), np.int32)
    more_hashes[:count] = hashes
    more_places[:count] = places
    return more_hashes, more_places


@kernel
def _joined(places: Any, k: int, shortest: int) -> Any:
    out = np.empty((len(places), 3), np.int32)
    count = 0
    start = 0
    for p in range(len(places)):
        ends = p + 1 == len(places) or places[p + 1, 0] != places[p, 0] or places[p + 1, 3] > places[p, 3] + k
        if ends:
            if places[p, 3] + k - places[start, 3] >= shortest:
                out[count, 0] = places[p, 0]
                out[count, 1] = places[start, 1]
                out[count, 2] = places[p, 2]
                count += 1
            start = p + 1
    return out[:count]


@kernel
def _united(places: Any) -> Any:
    out = places.copy()
    count = 0
    for p in range(1, len(places)):
        if places[p, 0] == out[count, 0] and places[p, 1] <= out[count, 2]:
            out[count, 2] = max(out[count, 2], places[p, 2])
        else:
            count += 1
            out[count] = places[p]
    return out[: count + 1]


@kernel
def _cut(offsets: Any, data: Any, places: Any) -> Any:
    n = len(offsets) - 1
    out = np.empty(offsets[n] - offsets[0], np.uint8)
    starts = np.zeros(n + 1, np.int32)
    o = p = 0
    for d in range(n):
        i = offsets[d]
        while p < len(places) and places[p, 0] == d:
            first = offsets[d] + places[p, 1]
            out[o : o + first - i] = data[i:first]
            o += first - i
            i = offsets[d] + places[p, 2]
            p += 1
        rest = offsets[d + 1] - i
        out[o : o + rest] = data[i : offsets[d + 1]]
        o += rest
        starts[d + 1] = o
    return starts, out[:o]
