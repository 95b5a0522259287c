"""MinHash of character 5-grams: the share of equal entries in two signatures estimates the Jaccard similarity of the
texts' 5-gram sets, with a standard deviation of sqrt(J (1 - J) / k).

Broder 1997, "On the resemblance and containment of documents". A signature entry is the least of a x + b mod 2^w over
the 5-grams' hashes x (multiply-add: a odd), w the word size. With 32 bits, texts of 100,000 different 5-grams have a
hash in common with probability 0.7; that moves no estimate by more than its error, but from some millions on it does,
and 64 bits are for those. Spaces and line ends don't count; dakuten do. A text shorter than five characters is one
gram, so no text is without a signature.
"""

from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import buffers, decode, longest

if TYPE_CHECKING:
    import pyarrow as pa

NGRAM = 5
BASE = np.uint64(0x9E3779B97F4A7C15)
SEED = 20260412


def signatures(texts: "pa.StringArray", permutations: int, bits: Literal[32, 64] = 32) -> np.ndarray:
    """N x k signatures of N texts, uint32 or uint64."""
    offsets, data = buffers(texts)
    draw = np.random.Generator(np.random.PCG64(SEED))
    if bits == 64:
        a, b = draw.integers(0, 2**64, (2, permutations), np.uint64)
        return _signatures_64(offsets, data, a | np.uint64(1), b)
    a, b = draw.integers(0, 2**32, (2, permutations), np.uint32)
    return _signatures_32(offsets, data, a | np.uint32(1), b)


def fingerprints(texts: "pa.StringArray") -> np.ndarray:
    """N x 2 uint64: 128 bits that are equal for texts that differ in spaces and line ends at most."""
    offsets, data = buffers(texts)
    return _fingerprints(offsets, data)


@kernel
def _signatures_32(offsets: Any, data: Any, a: Any, b: Any) -> Any:
    n, k = len(offsets) - 1, len(a)
    out = np.empty((n, k), np.uint32)
    hashes = np.empty(longest(offsets) + 1, np.uint64)
    grams = np.empty(len(hashes), np.uint32)
    for d in range(n):
        num_grams = _grams(data, offsets[d], offsets[d + 1], hashes)
        for g in range(num_grams):
            grams[g] = np.uint32(hashes[g] >> np.uint64(32))
        for j in range(k):
            least = np.uint32(0xFFFFFFFF)
            a_j, b_j = a[j], b[j]
            for g in range(num_grams):
                least = min(least, np.uint32(a_j * grams[g] + b_j))
            out[d, j] = least
    return out


@kernel
def _signatures_64(offsets: Any, data: Any, a: Any, b: Any) -> Any:
    n, k = len(offsets) - 1, len(a)
    out = np.empty((n, k), np.uint64)
    grams = np.empty(longest(offsets) + 1, np.uint64)
    for d in range(n):
        num_grams = _grams(data, offsets[d], offsets[d + 1], grams)
        for j in range(k):
            least = np.uint64(0xFFFFFFFFFFFFFFFF)
            a_j, b_j = a[j], b[j]
            for g in range(num_grams):
                least = min(least, a_j * grams[g] + b_j)
            out[d, j] = least
    return out


@numba.njit(nogil=True)
def _grams(data: Any, start: int, stop: int, out: Any) -> int:
    """Writes the hashes of a text's 5-grams to `out`; gives how many they are."""
    window = np.zeros(NGRAM, np.uint64)
    leaving = np.uint64(1)
    for _ in range(NGRAM):
        leaving *= BASE
    rolling = np.uint64(0)
    count = 0
    i = start
    while i < stop:
        c, length = decode(data, i)
        i += length
        if c == 0x20 or c == 0x0A or c == 0x3000 or c == 0x09:
            continue
        rolling = rolling * BASE + np.uint64(c) - leaving * window[count % NGRAM]
        window[count % NGRAM] = np.uint64(c)
        count += 1
        if count >= NGRAM:
            out[count - NGRAM] = rolling
    num_grams = count - NGRAM + 1
    if num_grams < 1:
        out[0] = rolling
        num_grams = 1
    for g in range(num_grams):
        out[g] = _mix(out[g])
    return num_grams


@numba.njit(inline="always")
def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3 (Appleby 2011)."""
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ x >> np.uint64(33)


@kernel
def _fingerprints(offsets: Any, data: Any) -> Any:
    n = len(offsets) - 1
    out = np.empty((n, 2), np.uint64)
    for d in range(n):
        first, second = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            c, length = decode(data, i)
            i += length
            if c == 0x20 or c == 0x0A or c == 0x3000 or c == 0x09:
                continue
            first = (first ^ np.uint64(c)) * np.uint64(0x100000001B3)
            first ^= first >> np.uint64(29)
            second = (second ^ np.uint64(c)) * np.uint64(0x9FB21C651E98DF25)
            second ^= second >> np.uint64(32)
        out[d, 0] = first
        out[d, 1] = second
    return out
