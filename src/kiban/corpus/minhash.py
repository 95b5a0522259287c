"""MinHash of character 5-grams: the share of equal entries in two signatures estimates the Jaccard similarity of the
texts' 5-gram sets, with a standard deviation of sqrt(J (1 - J) / k).

Broder 1997, "On the resemblance and containment of documents". A signature entry is the least of a x + b mod 2^32 over
the 5-grams' hashes x (multiply-shift: a odd). Spaces and line ends don't count; dakuten do. A text shorter than five
characters is one gram, so no text is without a signature.
"""

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.corpus.utf8 import buffers, decode, kernel

if TYPE_CHECKING:
    import pyarrow as pa

NGRAM = 5
BASE = np.uint64(0x9E3779B97F4A7C15)
SEED = 20260412


def signatures(texts: "pa.StringArray", permutations: int) -> np.ndarray:
    """N x k uint32 signatures of N texts."""
    offsets, data = buffers(texts)
    drawn = np.random.Generator(np.random.PCG64(SEED)).integers(0, 2**32, (2, permutations), np.uint32)
    return _signatures(offsets, data, drawn[0] | np.uint32(1), drawn[1])


def fingerprints(texts: "pa.StringArray") -> np.ndarray:
    """N x 2 uint64: 128 bits that are equal for texts that differ in spaces and line ends at most."""
    offsets, data = buffers(texts)
    return _fingerprints(offsets, data)


@kernel
def _signatures(offsets: Any, data: Any, a: Any, b: Any) -> Any:
    n, k = len(offsets) - 1, len(a)
    out = np.empty((n, k), np.uint32)
    longest = 0
    for d in range(n):
        longest = max(longest, offsets[d + 1] - offsets[d])
    grams = np.empty(longest + 1, np.uint32)
    window = np.zeros(NGRAM, np.uint64)
    leaving = np.uint64(1)
    for _ in range(NGRAM):
        leaving *= BASE
    for d in range(n):
        i, stop = offsets[d], offsets[d + 1]
        count = 0
        rolling = np.uint64(0)
        window[:] = 0
        while i < stop:
            c, length = decode(data, i)
            i += length
            if c == 0x20 or c == 0x0A or c == 0x3000 or c == 0x09:
                continue
            rolling = rolling * BASE + np.uint64(c) - leaving * window[count % NGRAM]
            window[count % NGRAM] = np.uint64(c)
            count += 1
            if count >= NGRAM:
                grams[count - NGRAM] = _mix(rolling)
        num_grams = count - NGRAM + 1
        if num_grams < 1:
            grams[0] = _mix(rolling)
            num_grams = 1
        for j in range(k):
            least = np.uint32(0xFFFFFFFF)
            a_j, b_j = a[j], b[j]
            for g in range(num_grams):
                least = min(least, np.uint32(a_j * grams[g] + b_j))
            out[d, j] = least
    return out


@numba.njit(inline="always")
def _mix(x: Any) -> Any:
    """The finaliser of MurmurHash3 (Appleby 2011), its upper half."""
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return np.uint32(x >> np.uint64(32))


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
