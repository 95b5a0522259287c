"""Which documents are duplicates of which: equal texts by fingerprint, similar ones by MinHash, LSH and union-find.

The outcome depends on the set of documents alone, not on their order: they are ranked first, longest first and then
by id. Of equal texts the first stays. In a group of similar ones, from the first on, a document stays unless it is
similar to one that stays: so every document that goes is like the one named as its reason, however long the chain
between others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kiban.artifacts.kernel import kernel

SIMILARITIES = 1 << 16  # pairs whose signatures are compared at a time, once it is known which they are
MOST_COMPARED = 32  # documents of a bucket that a new one is compared with; more than that share a page's frame


@dataclass(frozen=True)
class Duplicates:
    """For each of N documents: `kept` (N, int64) is the document that stands for it, itself if it stays; `exact` (N,
    bool) whether their texts are equal; `similarity` (N) the estimated Jaccard similarity with it. `cluster` (N,
    int64) groups documents that are alike enough (`loose`) that they must not stand on both sides of a split."""

    kept: np.ndarray
    exact: np.ndarray
    similarity: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class Ranked:
    """N documents in the order of their ranks: `documents` (N) by rank; `first` (N) for each rank the first with an
    equal text; `unique` the ranks that are first themselves, in order. Only those need signatures."""

    documents: np.ndarray
    first: np.ndarray
    unique: np.ndarray


def rank(fingerprints: np.ndarray, characters: np.ndarray, ids: np.ndarray) -> Ranked:
    """Ranks N documents. `fingerprints`: N x 2 uint64, from `minhash.fingerprints`; `ids`: N fixed-length byte
    strings."""
    order = np.lexsort((ids, -characters))
    first = _first_of_equal(fingerprints[order])
    return Ranked(order, first, np.flatnonzero(first == np.arange(len(order))))


def find(ranked: Ranked, signatures: np.ndarray, bands: int, threshold: float, loose: float) -> Duplicates:
    """Duplicates among the documents that are ranked.

    Args:
        signatures: U x k, from `minhash.signatures`, of the documents of `ranked.unique` in that order; k is a multiple
            of `bands`. Documents are compared if one of their bands of k / bands entries is equal, which is so with
            probability 1 - (1 - J^(k / bands))^bands.
        threshold: estimated Jaccard similarity from which on a document is a duplicate.
        loose: the same for `cluster`.
    """
    documents, first, unique = ranked.documents, ranked.first, ranked.unique
    n = len(documents)
    at = np.searchsorted(unique, first)  # for each rank the row of its signature
    near, alike = _components(signatures, bands, threshold, loose)
    stands_for = _representatives(near, signatures, threshold)  # row -> row
    similar = np.ones(len(unique))
    going = np.flatnonzero(stands_for != np.arange(len(unique)))
    for rows in np.split(going, range(SIMILARITIES, len(going), SIMILARITIES)):
        similar[rows] = (signatures[rows] == signatures[stands_for[rows]]).mean(axis=1)
    kept = unique[stands_for][at]
    exact = (first != np.arange(n)) & (kept == first)
    ranks = np.empty(n, np.int64)
    ranks[documents] = np.arange(n)
    return Duplicates(documents[kept[ranks]], exact[ranks], similar[at][ranks], documents[unique[alike][at][ranks]])


def _first_of_equal(fingerprints: np.ndarray) -> np.ndarray:
    """For each row the first row that is equal to it."""
    n = len(fingerprints)
    by_value = np.lexsort((np.arange(n), fingerprints[:, 1], fingerprints[:, 0]))
    ordered = fingerprints[by_value]
    begins = np.ones(n, bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(n, np.int64)
    first[by_value] = by_value[begins][np.cumsum(begins) - 1] if n else by_value
    return first


def _components(signatures: np.ndarray, bands: int, threshold: float, loose: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row the lowest row of its component, joining rows above `threshold`, and above `loose`."""
    n, k = signatures.shape
    near, alike = np.arange(n), np.arange(n)
    rows = k // bands
    for band in range(bands):
        keys = _band_keys(signatures, band * rows, rows)
        _join(keys, np.argsort(keys, kind="stable"), signatures, near, alike, threshold, loose)
    return _roots(near), _roots(alike)


def _representatives(component: np.ndarray, signatures: np.ndarray, threshold: float) -> np.ndarray:
    """For each row the row that stays for it: itself, or the first of its component that stays and is similar to it."""
    by_component = np.argsort(component, kind="stable")
    begins = np.flatnonzero(np.diff(component[by_component], prepend=-1))
    return _chosen(by_component, np.append(begins, len(component)), signatures, threshold)


@kernel
def _chosen(by_component: Any, begins: Any, signatures: Any, threshold: float) -> Any:
    chosen = np.arange(len(by_component))
    staying = np.empty(len(by_component), np.int64)
    k = signatures.shape[1]
    for c in range(len(begins) - 1):
        count = 0
        for at in range(begins[c], begins[c + 1]):
            row = by_component[at]
            for s in range(count):
                equal = 0
                for j in range(k):
                    equal += signatures[row, j] == signatures[staying[s], j]
                if equal / k >= threshold:
                    chosen[row] = staying[s]
                    break
            if chosen[row] == row:
                staying[count] = row
                count += 1
    return chosen


@kernel
def _band_keys(signatures: Any, start: int, rows: int) -> Any:
    keys = np.empty(len(signatures), np.uint64)
    for d in range(len(signatures)):
        key = np.uint64(start + 1)
        for j in range(start, start + rows):
            key = (key ^ np.uint64(signatures[d, j])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        keys[d] = key
    return keys


@kernel
def _join(keys: Any, by_key: Any, signatures: Any, near: Any, alike: Any, threshold: float, loose: float) -> None:
    """Joins rows with equal keys whose signatures agree enough. A row that is like none before it in its bucket becomes
    one that later rows are compared with."""
    k = signatures.shape[1]
    compared = np.empty(MOST_COMPARED, np.int64)
    count = 0
    for at in range(len(by_key)):
        row = by_key[at]
        if at == 0 or keys[row] != keys[by_key[at - 1]]:
            count = 0
        found = False
        for c in range(count):
            other = compared[c]
            if _root(near, row) == _root(near, other):
                found = True
                break
            equal = 0
            for j in range(k):
                equal += signatures[row, j] == signatures[other, j]
            if equal >= loose * k:
                _unite(alike, row, other)
            if equal >= threshold * k:
                _unite(near, row, other)
                found = True
                break
        if not found and count < MOST_COMPARED:
            compared[count] = row
            count += 1


@kernel
def _root(parents: Any, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@kernel
def _unite(parents: Any, a: int, b: int) -> None:
    """The lower root becomes the root of both."""
    a, b = _root(parents, a), _root(parents, b)
    parents[max(a, b)] = min(a, b)


@kernel
def _roots(parents: Any) -> Any:
    out = np.empty(len(parents), np.int64)
    for row in range(len(parents)):
        out[row] = _root(parents, row)
    return out
