"""Byte-pair merges learnt from counted pieces: the most frequent pair first, ties by the smaller pair of ids.

Sennrich et al. 2016 (arXiv 1508.07909). Symbols stand in a linked list; each pair knows its count and its places, so a
merge costs what it changes. A pair whose merge spells a token that there is already becomes that token, as it will
when text is encoded.
"""

import heapq
from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel


def learn(
    symbols: np.ndarray, weights: np.ndarray, hashes: np.ndarray, sizes: np.ndarray, room: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `room` merges (M x 2, int32), in order, and their counts (M, int64). Token len(hashes) + m is made by
    merge m.

    Args:
        symbols: int32, pieces one after another with -1 before each and at the end; `weights` (int32): at each place
            the count of its piece. Overwritten.
        hashes, sizes: of the symbols that there are: `hash_of` their characters (uint64), and how many.
        longest: characters of a token at most.
    """
    return _learn(symbols, weights, hashes, sizes, room, longest)


@numba.njit(inline="always")
def _power(base: Any, exponent: Any) -> Any:
    result = np.uint64(1)
    for _ in range(exponent):
        result *= base
    return result


BASE = np.uint64(0xD1342543DE82EF95)


def hash_of(character: int) -> int:
    """Of one character; hash(ab) = hash(a) BASE^|b| + hash(b) mod 2^64."""
    mixed = (character + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 31) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF


@numba.njit(inline="always")
def _find(keys: Any, key: Any) -> Any:
    mask = len(keys) - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(24)) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@kernel
def _rehashed(keys: Any, counts: Any, heads: Any) -> Any:
    more = 2 * len(keys)
    k, c, h = np.full(more, -1, np.int64), np.zeros(more, np.int64), np.full(more, -1, np.int32)
    for slot in range(len(keys)):
        if keys[slot] != -1 and counts[slot] > 0:
            to = _find(k, keys[slot])
            k[to], c[to], h[to] = keys[slot], counts[slot], heads[slot]
    return k, c, h


@kernel
def _learn(symbols: Any, weights: Any, hashes: Any, sizes: Any, room: int, longest: int) -> Any:
    n = len(symbols)
    before, after = np.empty(n, np.int32), np.empty(n, np.int32)
    for i in range(n):
        before[i], after[i] = i - 1, i + 1
    first = len(hashes)
    hash_, size = np.empty(first + room, np.uint64), np.empty(first + room, np.int32)
    hash_[:first], size[:first] = hashes, sizes
    token_of = dict()
    for t in range(first):
        token_of[hash_[t]] = np.int32(t)
    # Lists of places: a node is a place and the next node. A stale one is told by the symbols that stand there.
    keys, counts, heads = np.full(1 << 20, -1, np.int64), np.zeros(1 << 20, np.int64), np.full(1 << 20, -1, np.int32)
    node_place, node_next = np.empty(n + 1024, np.int32), np.empty(n + 1024, np.int32)
    num_nodes, free = np.int64(0), np.int64(-1)
    used = 0
    for i in range(1, n - 1):
        a, b = symbols[i], symbols[i + 1]
        if a < 0 or b < 0 or size[a] + size[b] > longest:
            continue
        key = np.int64(a) << 32 | np.int64(b)
        slot = _find(keys, key)
        if keys[slot] == -1:
            keys[slot] = key
            used += 1
        counts[slot] += weights[i]
        node_place[num_nodes], node_next[num_nodes] = i, heads[slot]
        heads[slot] = num_nodes
        num_nodes += 1
        if 2 * used > len(keys):
            keys, counts, heads = _rehashed(keys, counts, heads)
    heap = [(np.int64(0), np.int64(0))]
    heap.pop()
    for slot in range(len(keys)):
        if keys[slot] != -1 and counts[slot] > 1:
            heap.append((-counts[slot], keys[slot]))
    heapq.heapify(heap)
    merges, merged = np.empty((room, 2), np.int32), np.empty(room, np.int64)
    made = 0
    touched = [np.int64(0)]
    while made < room and len(heap):
        negative, key = heapq.heappop(heap)
        slot = _find(keys, key)
        if keys[slot] == -1 or counts[slot] < 2:
            continue
        if -negative != counts[slot]:
            heapq.heappush(heap, (-counts[slot], key))
            continue
        a, b = np.int32(key >> 32), np.int32(key & 0xFFFFFFFF)
        spelt = hash_[a] * _power(BASE, size[b]) + hash_[b]
        known = spelt in token_of
        if known:
            new: Any = token_of[spelt]
        else:
            new = np.int32(first + made)
            token_of[spelt] = new
            hash_[new], size[new] = spelt, size[a] + size[b]
            merges[made, 0], merges[made, 1] = a, b
            merged[made] = counts[slot]
            made += 1
        touched.clear()
        node = heads[slot]
        heads[slot], counts[slot] = -1, 0
        # places in the order of the text, so that of overlapping ones (aaa) the leftmost goes first
        places = [np.int32(0)]
        places.pop()
        while node >= 0:
            i = node_place[node]
            if symbols[i] == a and symbols[after[i]] == b:
                places.append(i)
            following = node_next[node]
            node_next[node] = free
            free = np.int64(node)
            node = following
        places.sort()
        for place in places:
            i = int(place)
            j = after[i]
            if symbols[i] != a or symbols[j] != b:
                continue
            w = weights[i]
            left, right = before[i], after[j]
            x, y = symbols[left], symbols[right]
            if x >= 0:
                s = _find(keys, np.int64(x) << 32 | np.int64(a))
                if keys[s] != -1 and counts[s] > 0:
                    counts[s] -= w
            if y >= 0:
                s = _find(keys, np.int64(b) << 32 | np.int64(y))
                if keys[s] != -1 and counts[s] > 0:
                    counts[s] -= w
            symbols[i] = new
            symbols[j] = -2
            after[i], before[right] = right, i
            for side in range(2):
                at = left if side == 0 else i
                p, q = symbols[at], symbols[after[at]]
                if p < 0 or q < 0 or size[p] + size[q] > longest:
                    continue
                fresh = np.int64(p) << 32 | np.int64(q)
                s = _find(keys, fresh)
                if keys[s] == -1:
                    keys[s] = fresh
                    used += 1
                if counts[s] == 0 or known:
                    touched.append(fresh)
                counts[s] += w
                if free >= 0:
                    node = free
                    free = np.int64(node_next[node])
                else:
                    node = np.int32(num_nodes)
                    num_nodes += 1
                    if num_nodes > len(node_place):
                        more_place, more_next = np.empty(2 * num_nodes, np.int32), np.empty(2 * num_nodes, np.int32)
                        more_place[: num_nodes - 1], more_next[: num_nodes - 1] = node_place, node_next
                        node_place, node_next = more_place, more_next
                node_place[node], node_next[node] = at, heads[s]
                heads[s] = node
        for fresh in touched:
            s = _find(keys, fresh)
            if counts[s] > 1:
                heapq.heappush(heap, (-counts[s], fresh))
        if 2 * used > len(keys):
            keys, counts, heads = _rehashed(keys, counts, heads)
            used = 0
            for s in range(len(keys)):
                used += keys[s] != -1
    return merges[:made], merged[:made]
