"""Repetition of character n-grams: the tables of Swallow's `quality.py` (n = 2 to 10), HojiChar's share of frequent
5-grams, and the share of 10-grams that stood in the text before.

A table of all n-grams for every n is what makes these slow. Here one is made for n = 2 alone. For n = 5 a filter of
byte counters finds the grams that may stand twice, and only those enter a table; for n = 6 and more only those whose
first n - 1 characters stand twice do, since no other can. The most frequent 3- and 4-grams are among those whose
2-grams are each as frequent as one that is known. So the figures are those of the full tables (but for collisions of
64-bit hashes), at a fraction of the work.
"""

from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import decode, longest, slots_for

SWALLOW = (
    *(f"swallow.top_{n}gram_character_fraction" for n in (2, 3, 4)),
    *(f"swallow.duplicate_{n}gram_character_fraction" for n in range(5, 11)),
)
HOJICHAR = ("hojichar.character_repetition_ratio",)
KIBAN = ("repeated_10gram_share",)  # character 10-grams that stood before, of all 10-grams; spaces left out

BASE = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xD6E8FEB86659FD93)
FIRST, LAST = 5, 10


@kernel
def swallow(offsets: Any, data: Any) -> Any:
    """N x 9: the frequency of the most frequent 2-, 3- and 4-gram over the number of grams, and the different 5- to
    10-grams that stand more than once over the different ones. A text too short for a gram has 0."""
    n = len(offsets) - 1
    out = np.zeros((n, 9), np.float64)
    room = max(longest(offsets), 16)
    size = slots_for(room)
    text = np.empty(room, np.int64)
    slots = np.empty(room, np.int32)  # of each position's gram in the table
    keys = np.empty(size, np.uint64)
    counts = np.empty(size, np.int32)
    grams = np.empty(room, np.uint64)
    buckets = np.empty(2 * size, np.uint8)
    active = np.empty(room, np.int32)
    frequency = np.empty(room, np.int32)  # of the 2-gram at each position
    for d in range(n):
        length = _decode(data, offsets[d], offsets[d + 1], text)
        if length < 2:
            continue
        _top(text, length, keys, counts, slots, frequency, active, out[d])
        count = _active_grams(text, length, grams, buckets, active)
        for g in range(FIRST, LAST + 1):
            if length < g:
                break
            if g == FIRST:
                different, twice = _enter(grams, active, count, keys, counts, slots)
            else:
                kept = 0
                for a in range(count):  # those of which n - 1 characters stand twice
                    p = active[a]
                    if counts[slots[p]] > 1 and p + g <= length:
                        active[kept] = p
                        grams[p] = np.uint64(slots[p]) << np.uint64(21) | np.uint64(text[p + g - 1])
                        kept += 1
                count = kept
                different, twice = _enter(grams, active, count, keys, counts, slots)
            out[d, g - 2] = twice / (length - g + 1 - count + different)
    return out


@kernel
def hojichar(offsets: Any, data: Any) -> Any:
    """N x 1: of D different 5-grams the sqrt(D) most frequent ones that stand more than once: their share of all."""
    n = len(offsets) - 1
    out = np.zeros((n, 1), np.float64)
    room = max(longest(offsets), 16)
    size = slots_for(room)
    text = np.empty(room, np.int64)
    slots = np.empty(room, np.int32)
    keys = np.empty(size, np.uint64)
    counts = np.empty(size, np.int32)
    grams = np.empty(room, np.uint64)
    buckets = np.empty(2 * size, np.uint8)
    active = np.empty(room, np.int32)
    for d in range(n):
        length = _decode(data, offsets[d], offsets[d + 1], text)
        total = length - FIRST + 1
        if total < 1:
            continue
        count = _active_grams(text, length, grams, buckets, active)
        different, twice = _enter(grams, active, count, keys, counts, slots)
        frequent = np.empty(twice, np.int32)
        at = 0
        for slot in range(slots_for(count)):
            if counts[slot] > 1:
                frequent[at] = counts[slot]
                at += 1
        chosen = min(np.int64(np.sqrt(np.float64(total - count + different))), twice)
        out[d, 0] = np.sort(frequent)[twice - chosen :].sum() / total
    return out


@kernel
def kiban(offsets: Any, data: Any) -> Any:
    """N x 1, for `KIBAN`."""
    n = len(offsets) - 1
    out = np.zeros((n, 1), np.float64)
    room = max(longest(offsets), 16)
    size = slots_for(room)
    slots = np.empty(room, np.int32)
    keys = np.empty(size, np.uint64)
    counts = np.empty(size, np.int32)
    grams = np.empty(room, np.uint64)
    buckets = np.empty(2 * size, np.uint8)
    active = np.empty(room, np.int32)
    leaving = np.uint64(1)
    for _ in range(LAST):
        leaving *= BASE
    window = np.zeros(16, np.uint64)
    for d in range(n):
        rolling = np.uint64(0)
        window[:] = 0
        count = 0
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            c, length = decode(data, i)
            i += length
            if c == 0x20 or c == 0x0A or c == 0x3000 or c == 0x09:
                continue
            rolling = rolling * BASE + np.uint64(c) - leaving * window[(count - LAST) & 15]
            window[count & 15] = np.uint64(c)
            count += 1
            if count >= LAST:
                grams[count - LAST] = (rolling ^ rolling >> np.uint64(32)) * MIX
        total = count - LAST + 1
        if total < 1:
            continue
        count = filter_repeated(grams, total, buckets, active)
        different, _ = _enter(grams, active, count, keys, counts, slots)
        out[d, 0] = (count - different) / total
    return out


@numba.njit(nogil=True)
def _decode(data: Any, start: int, stop: int, text: Any) -> int:
    length = 0
    i = start
    while i < stop:
        c, step = decode(data, i)
        text[length] = c
        length += 1
        i += step
    return length


@numba.njit(nogil=True)
def _active_grams(text: Any, length: int, grams: Any, buckets: Any, active: Any) -> int:
    """Hashes of the 5-grams at all positions, and the positions of those that may stand twice."""
    total = max(length - FIRST + 1, 0)
    for p in range(total):
        h = np.uint64(text[p])
        h = h * BASE + np.uint64(text[p + 1])
        h = h * BASE + np.uint64(text[p + 2])
        h = h * BASE + np.uint64(text[p + 3])
        h = h * BASE + np.uint64(text[p + 4])
        grams[p] = (h ^ h >> np.uint64(32)) * MIX
    return filter_repeated(grams, total, buckets, active)


@numba.njit(nogil=True)
def filter_repeated(grams: Any, total: int, buckets: Any, active: Any) -> int:
    """Positions whose gram shares a bucket with another: all grams that stand twice are among them."""
    size = 2 * slots_for(total)
    shift = np.uint64(64)
    while size > 1:
        size >>= 1
        shift -= np.uint64(1)
    buckets[: 1 << (np.uint64(64) - shift)] = 0
    for p in range(total):
        bucket = grams[p] >> shift
        buckets[bucket] = min(buckets[bucket] + 1, 2)
    count = 0
    for p in range(total):
        active[count] = p
        count += buckets[grams[p] >> shift] > 1
    return count


@numba.njit(nogil=True)
def _enter(grams: Any, active: Any, count: int, keys: Any, counts: Any, slots: Any) -> Any:
    """Counts the grams at `count` active positions in an empty table; gives how many different ones there are, and
    how many of those stand more than once."""
    size = slots_for(count)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    different = twice = 0
    for a in range(count):
        p = active[a]
        key = grams[p]
        mixed = key * BASE
        at = (mixed ^ mixed >> np.uint64(32)) & mask
        while counts[at] and keys[at] != key:
            at = (at + np.uint64(1)) & mask
        keys[at] = key
        counts[at] += 1
        different += counts[at] == 1
        twice += counts[at] == 2
        slots[p] = at
    return different, twice


@numba.njit(nogil=True)
def _top(text: Any, length: int, keys: Any, counts: Any, slots: Any, frequency: Any, active: Any, out: Any) -> None:
    """The most frequent 2-, 3- and 4-gram: how often it stands, over the number of grams."""
    size = slots_for(length)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    for p in range(length - 1):
        key = np.uint64(text[p]) << np.uint64(21) | np.uint64(text[p + 1])
        mixed = key * BASE
        at = (mixed ^ mixed >> np.uint64(32)) & mask
        while counts[at] and keys[at] != key:
            at = (at + np.uint64(1)) & mask
        keys[at] = key
        counts[at] += 1
        slots[p] = at
    most, best = 0, 0
    for p in range(length - 1):
        frequency[p] = counts[slots[p]]
        if frequency[p] > most:
            most, best = frequency[p], p
    out[0] = most / (length - 1)
    for g in (3, 4):
        if length < g:
            return
        # How often the best gram of g - 1 characters goes on in its most frequent way: no less frequent than that.
        known = 0
        for bound in (True, False):
            count = 0
            for p in range(length - g + 1):
                if bound:
                    same = True
                    for j in range(g - 1):
                        same &= text[p + j] == text[best + j]
                else:
                    same = frequency[p] >= known and frequency[p + 1] >= known
                    same &= g == 3 or frequency[p + 2] >= known
                active[count] = p
                count += same
            most, at_most = _most(text, g, active, count, keys, counts)
            known = most
        best = at_most
        out[g - 2] = most / (length - g + 1)


@numba.njit(nogil=True)
def _most(text: Any, g: int, active: Any, count: int, keys: Any, counts: Any) -> Any:
    """How often the most frequent of the 3- or 4-grams at the active positions stands, and where it does."""
    size = slots_for(count)
    mask = np.uint64(size - 1)
    counts[:size] = 0
    most, best = 0, 0
    for a in range(count):
        p = active[a]
        key = (np.uint64(text[p]) << np.uint64(21) | np.uint64(text[p + 1])) << np.uint64(21) | np.uint64(text[p + 2])
        if g == 4:
            key = key * MIX + np.uint64(text[p + 3])
        mixed = key * BASE
        at = (mixed ^ mixed >> np.uint64(32)) & mask
        while counts[at] and keys[at] != key:
            at = (at + np.uint64(1)) & mask
        keys[at] = key
        counts[at] += 1
        if counts[at] > most:
            most, best = counts[at], p
    return most, best
