"""Distinct pieces of a stream of texts with their counts, in bounded memory.

A piece is kept as its code points. Where more characters of distinct pieces than `most` have been met, the rarest are
forgotten (lossy counting: Manku and Motwani 2002, "Approximate frequency counts over data streams"), so memory has a
bound whatever the length of the stream, and what is frequent stays.
"""

from typing import Any

import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.tokenizer.pieces import CLASS, class_of, end_of_piece

MOST_CHARACTERS = 96_000_000  # of distinct pieces: 400 MB


class PieceCounts:
    """`points` (int32) holds the pieces one after another; piece p is points[starts[p]:starts[p + 1]]."""

    def __init__(self, by_clauses: bool, most: int = MOST_CHARACTERS) -> None:
        self.by_clauses, self.most = by_clauses, most
        self.forgotten = 0  # pieces that occurred this often or more were never forgotten
        self._points = np.empty(1 << 16, np.int32)
        self._starts = np.zeros(1 << 14, np.int64)
        self._counts = np.zeros(1 << 14, np.int64)
        self._slots = np.full(1 << 15, -1, np.int32)
        self._keys = np.empty(1 << 14, np.uint64)
        self._num = 0

    @property
    def points(self) -> np.ndarray:
        return self._points[: self._starts[self._num]]

    @property
    def starts(self) -> np.ndarray:
        return self._starts[: self._num + 1]

    @property
    def counts(self) -> np.ndarray:
        return self._counts[: self._num]

    def add(self, text: str) -> None:
        """Raises UnicodeEncodeError for a lone surrogate."""
        for start in range(0, len(text), SLICE):  # so that one very long text takes no more memory than many
            self._add(np.frombuffer(text[start : start + SLICE].encode("utf-32-le"), np.uint32).astype(np.int32))

    def _add(self, points: np.ndarray) -> None:
        at = 0
        while True:
            at, self._num = _count(
                points,
                CLASS,
                at,
                self.by_clauses,
                self._points,
                self._starts,
                self._counts,
                self._keys,
                self._slots,
                self._num,
            )
            if at >= len(points):
                return
            self._make_room()

    def _make_room(self) -> None:
        if self._starts[self._num] > self.most:
            self.forgotten += 1
            self._num = _forget(self._points, self._starts, self._counts, self._keys, self._num, self.forgotten)
            self._slots[:] = -1
            _fill(self._slots, self._keys, self._num)
            if self._starts[self._num] > self.most // 2:
                self._make_room()
            return
        if self._starts[self._num] + 2 * CHUNK > len(self._points):
            self._points = _grown(self._points)
        if self._num + CHUNK > len(self._keys):
            self._starts, self._counts, self._keys = (_grown(a) for a in (self._starts, self._counts, self._keys))
        if 2 * len(self._keys) > len(self._slots):
            self._slots = np.full(2 * len(self._keys), -1, np.int32)
            _fill(self._slots, self._keys, self._num)


SLICE = 1 << 20  # characters counted at a time; a piece ends where a slice does
CHUNK = 4096  # room that a call of `_count` asks for


def _grown(array: np.ndarray) -> np.ndarray:
    larger = np.zeros(max(2 * len(array), 4 * CHUNK), array.dtype)
    larger[: len(array)] = array
    return larger


@kernel
def _count(
    text: Any,
    table: Any,
    at: int,
    by_clauses: bool,
    points: Any,
    starts: Any,
    counts: Any,
    keys: Any,
    slots: Any,
    num: int,
) -> Any:
    """Counts pieces from `at` on until the text or the room ends; where it stopped, and the number of pieces."""
    mask = len(slots) - 1
    n = len(text)
    classes = np.empty(n - at, np.uint8)
    for i in range(at, n):
        classes[i - at] = class_of(table, text[i])
    base = at
    while at < n:
        if num + CHUNK // 4 > len(keys) or starts[num] + CHUNK > len(points):
            return at, num
        end = end_of_piece(classes, at - base, n - base, by_clauses) + base
        key = np.uint64(1469598103934665603)
        for i in range(at, end):
            key = (key ^ np.uint64(text[i])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        slot = np.int64(key >> np.uint64(20)) & mask
        while True:
            piece = slots[slot]
            if piece < 0:
                slots[slot] = num
                keys[num] = key
                counts[num] = 1
                begin = starts[num]
                for i in range(at, end):
                    points[begin + i - at] = text[i]
                starts[num + 1] = begin + end - at
                num += 1
                break
            if keys[piece] == key and starts[piece + 1] - starts[piece] == end - at:
                counts[piece] += 1
                break
            slot = (slot + 1) & mask
        at = end
    return at, num


@kernel
def _forget(points: Any, starts: Any, counts: Any, keys: Any, num: int, rarest: int) -> Any:
    kept = 0
    to = 0
    for piece in range(num):
        begin, end = starts[piece], starts[piece + 1]
        if counts[piece] > rarest:
            for i in range(begin, end):
                points[to + i - begin] = points[i]
            starts[kept], counts[kept], keys[kept] = to, counts[piece], keys[piece]
            to += end - begin
            kept += 1
    starts[kept] = to
    return kept


@kernel
def _fill(slots: Any, keys: Any, num: int) -> None:
    mask = len(slots) - 1
    for piece in range(num):
        slot = np.int64(keys[piece] >> np.uint64(20)) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = piece
