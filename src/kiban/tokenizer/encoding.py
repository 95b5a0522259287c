"""The encoder and decoder: kernels over UTF-8 bytes, and the tables they read.

The rule is tiktoken's: within a piece, the adjacent pair whose bytes together are the token of the lowest rank is
merged first, the leftmost of equals, until no pair makes a token; a piece that is a token is that token. Every token is
either within one character (a byte, or a prefix of its bytes, or all of them) or whole characters, and the former rank
below the latter, so characters can be looked up at once and merges start from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.tokenizer.learning import BASE, hash_of
from kiban.tokenizer.pieces import CLASS, LONGEST, class_of, end_of_piece

WINDOW = 16384  # characters decoded at a time
MARGIN = LONGEST + 32  # longer than any piece
NONE = np.int32(2**31 - 1)


@dataclass(frozen=True)
class Tables:
    """`character`: the id of a character of the basic plane, or -1. `pairs`: an open-addressing table (int64) of
    left << 40 | right << 20 | the id of both together, -1 where empty. `whole`: hashes of tokens that their own
    merges do not lead to. `data`, `starts`: the bytes of all
    tokens, special ones first, one after another. `first`: the id of byte 0."""

    character: np.ndarray
    pairs: np.ndarray
    whole: np.ndarray
    whole_ids: np.ndarray
    data: np.ndarray
    starts: np.ndarray
    first: int

    @staticmethod
    def of(tokens: Sequence[bytes], special: Sequence[str]) -> "Tables":
        """For tokens that follow the special ones; the first 256 are the bytes.

        Raises:
            ValueError: if a token is neither within one character nor whole characters, or ranks are not in that order.
        """
        first = len(special)
        character = np.full(0x10000, -1, np.int32)
        prefixes: list[tuple[int, int, int]] = []
        ids = {token: first + i for i, token in enumerate(tokens)}
        texts: list[str] = []
        num_within = 256
        for i, token in enumerate(tokens):
            try:
                text = token.decode()
            except UnicodeDecodeError:
                text = ""
            if len(text) <= 1 and i >= 256:
                if num_within != i or token[:-1] not in ids:
                    raise ValueError(f"token {token!r} is a part of a character and comes too late")
                prefixes.append((ids[token[:-1]], first + token[-1], first + i))
                num_within += 1
            if len(text) == 1 and ord(text) < 0x10000:
                character[ord(text)] = first + i
            texts.append(text)
        points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.int32)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        pairs = _pairs(points, offsets, np.array(prefixes, np.int64).reshape(-1, 3), first)
        spelt = [*(name.encode() for name in special), *tokens]
        data = np.frombuffer(b"".join(spelt), np.uint8)
        starts = np.concatenate([[0], np.cumsum([len(token) for token in spelt])]).astype(np.int64)
        whole_ids = np.array(list(_not_reached(points, offsets, character, pairs, first)), np.int32)
        hashes = np.array([_hash(texts[i]) for i in whole_ids], np.uint64)
        order = np.argsort(hashes)
        return Tables(character, pairs, hashes[order], whole_ids[order] + np.int32(first), data, starts, first)

    def encode(self, data: np.ndarray, offsets: np.ndarray, by_clauses: bool) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint32, offsets int64): text t of `data` (uint8, valid UTF-8) is ids[offsets[t] : offsets[t + 1]]."""
        size = int(offsets[-1] - offsets[0])
        out, ends = np.empty(size + 1, np.uint32), np.zeros(len(offsets), np.int64)
        total = _encode(
            data,
            offsets,
            by_clauses,
            CLASS,
            self.character,
            self.pairs,
            self.whole,
            self.whole_ids,
            self.first,
            out,
            ends,
        )
        return out[:total], ends

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of tokens, those of special ones by name; ids (uint32) must be known."""
        return bytes(_decode(ids, self.data, self.starts).data)


def _hash(text: str) -> int:
    result = 0
    for character in text:
        result = (result * int(BASE) + hash_of(ord(character))) & 0xFFFFFFFFFFFFFFFF
    return result


@numba.njit(inline="always")
def _hash_of(point: Any) -> Any:
    mixed = (np.uint64(point) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)


@numba.njit(inline="always")
def _slot(pairs: Any, key: Any) -> Any:
    """Where the search for a pair (left << 20 | right) begins."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(36)) & (len(pairs) - 1)


@numba.njit(inline="always")
def _together(pairs: Any, left: Any, right: Any) -> Any:
    """The id of two tokens together, or NONE."""
    key = np.int64(left) << 20 | np.int64(right)
    slot = _slot(pairs, key)
    entry = pairs[slot]
    while entry != -1 and entry >> 20 != key:
        slot = (slot + 1) & (len(pairs) - 1)
        entry = pairs[slot]
    return NONE if entry == -1 else np.int32(entry & 0xFFFFF)


@kernel
def _pairs(points: Any, offsets: Any, prefixes: Any, first: int) -> Any:
    """The table of `prefixes` (left, right, both) and of every pair of tokens of whole characters that together are a
    token."""
    n = len(offsets) - 1
    token_of = dict()
    prefix = np.empty(len(points) + 1, np.uint64)
    for t in range(n):
        h = np.uint64(0)
        for i in range(offsets[t], offsets[t + 1]):
            h = h * BASE + _hash_of(points[i])
            prefix[i] = h
        if offsets[t + 1] > offsets[t]:
            token_of[h] = np.int64(t + first)
    found = [np.int64(0)]
    found.pop()
    for row in range(len(prefixes)):
        found.append(prefixes[row, 0] << 40 | prefixes[row, 1] << 20 | prefixes[row, 2])
    for t in range(n):
        power, suffix = np.uint64(1), np.uint64(0)
        for i in range(offsets[t + 1] - 1, offsets[t], -1):
            suffix += _hash_of(points[i]) * power
            power *= BASE
            if prefix[i - 1] in token_of and suffix in token_of:
                found.append(token_of[prefix[i - 1]] << 40 | token_of[suffix] << 20 | np.int64(t + first))
    size = 1024
    while size < 2 * len(found):
        size *= 2
    pairs = np.full(size, -1, np.int64)
    for entry in found:
        slot = _slot(pairs, entry >> 20)
        while pairs[slot] != -1:
            slot = (slot + 1) & (size - 1)
        pairs[slot] = entry
    return pairs


@kernel
def _merged(symbols: Any, ranks: Any, n: int, pairs: Any) -> Any:
    """Merges the first n `symbols` in place; how many are left. `ranks`: work space."""
    for i in range(n - 1):
        ranks[i] = _together(pairs, symbols[i], symbols[i + 1])
    while n > 1:
        best = NONE
        for i in range(n - 1):  # apart from the search for its place, so that it is vectorised
            best = min(best, ranks[i])
        if best == NONE:
            break
        at = 0
        while ranks[at] != best:
            at += 1
        symbols[at] = best
        n -= 1
        for i in range(at + 1, n):
            symbols[i] = symbols[i + 1]
            ranks[i - 1] = ranks[i]
        if at > 0:
            ranks[at - 1] = _together(pairs, symbols[at - 1], best)
        if at < n - 1:
            ranks[at] = _together(pairs, best, symbols[at + 1])
    return n


@kernel
def _spelt(point: Any, symbols: Any, n: int, character: Any, pairs: Any, first: int) -> Any:
    """Appends the ids of one character to the n `symbols`; how many there are then."""
    if point < 0x10000 and character[point] >= 0:
        symbols[n] = character[point]
        return n + 1
    if point < 0x800:
        length, lead = 2, 0xC0 | point >> 6
    elif point < 0x10000:
        length, lead = 3, 0xE0 | point >> 12
    else:
        length, lead = 4, 0xF0 | point >> 18
    current = np.int32(first + lead)
    growing = True
    for k in range(length - 2, -1, -1):
        byte = np.int32(first + (0x80 | (point >> (6 * k) & 0x3F)))
        made = _together(pairs, current, byte) if growing else NONE
        if made != NONE:
            current = made
        else:
            growing = False
            symbols[n] = current
            n += 1
            current = byte
    symbols[n] = current
    return n + 1


@kernel
def _not_reached(points: Any, offsets: Any, character: Any, pairs: Any, first: int) -> Any:
    """Numbers of tokens of several characters that merging their own characters does not lead to."""
    found = [np.int64(0)]
    found.pop()
    symbols, ranks = np.empty(4 * 65536, np.int32), np.empty(4 * 65536, np.int32)
    for t in range(len(offsets) - 1):
        if offsets[t + 1] - offsets[t] < 2:
            continue
        n = 0
        for i in range(offsets[t], offsets[t + 1]):
            n = _spelt(points[i], symbols, n, character, pairs, first)
        if _merged(symbols, ranks, n, pairs) != 1:
            found.append(np.int64(t))
    return found


@kernel
def symbols_of(points: Any, character: Any, pairs: Any, first: int, symbols: Any, ranks: Any) -> Any:
    """Ids of a piece given as code points, into `symbols`; how many."""
    n = 0
    for i in range(len(points)):
        n = _spelt(points[i], symbols, n, character, pairs, first)
    return _merged(symbols, ranks, n, pairs)


@kernel
def _encode(
    data: Any,
    offsets: Any,
    by_clauses: bool,
    classes: Any,
    character: Any,
    pairs: Any,
    whole: Any,
    whole_ids: Any,
    first: int,
    out: Any,
    ends: Any,
) -> Any:
    points, kinds = np.empty(WINDOW, np.int32), np.empty(WINDOW, np.uint8)
    symbols, ranks = np.empty(4 * MARGIN, np.int32), np.empty(4 * MARGIN, np.int32)
    total = 0
    for t in range(len(offsets) - 1):
        i, stop = offsets[t], offsets[t + 1]
        filled = 0
        while i < stop or filled:
            while i < stop and filled < WINDOW:
                b = np.int32(data[i])
                if b < 0x80:
                    point = b
                    i += 1
                elif b < 0xE0:
                    point = (b & 0x1F) << 6 | np.int32(data[i + 1] & 0x3F)
                    i += 2
                elif b < 0xF0:
                    point = (b & 0x0F) << 12 | np.int32(data[i + 1] & 0x3F) << 6 | np.int32(data[i + 2] & 0x3F)
                    i += 3
                else:
                    point = (
                        (b & 0x07) << 18
                        | np.int32(data[i + 1] & 0x3F) << 12
                        | np.int32(data[i + 2] & 0x3F) << 6
                        | np.int32(data[i + 3] & 0x3F)
                    )
                    i += 4
                points[filled] = point
                kinds[filled] = class_of(classes, point)
                filled += 1
            at = 0
            last = filled if i == stop else filled - MARGIN
            while at < last:
                end = end_of_piece(kinds, at, filled, by_clauses)
                n = 0
                for k in range(at, end):
                    n = _spelt(points[k], symbols, n, character, pairs, first)
                if n > 1:
                    n = _merged(symbols, ranks, n, pairs)
                    if n > 1 and len(whole):
                        h = np.uint64(0)
                        for k in range(at, end):
                            h = h * BASE + _hash_of(points[k])
                        found = np.searchsorted(whole, h)
                        if found < len(whole) and whole[found] == h:
                            symbols[0] = whole_ids[found]
                            n = 1
                for k in range(n):
                    out[total + k] = np.uint32(symbols[k])
                total += n
                at = end
            for k in range(at, filled):
                points[k - at], kinds[k - at] = points[k], kinds[k]
            filled -= at
        ends[t + 1] = total
    return total


@kernel
def _decode(ids: Any, data: Any, starts: Any) -> Any:
    size = 0
    for i in range(len(ids)):
        size += starts[ids[i] + 1] - starts[ids[i]]
    out = np.empty(size, np.uint8)
    to = 0
    for i in range(len(ids)):
        for k in range(starts[ids[i]], starts[ids[i] + 1]):
            out[to] = data[k]
            to += 1
    return out
