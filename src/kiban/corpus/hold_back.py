"""Which documents are held back for measuring: whole groups, so that what is trained on has no near-copy of them.

A group is a cluster of similar documents, joined with all others of the same author where a source asks for that. From
each source groups are taken in the order of their hash until the share is reached, so that no one chooses them.
"""

import hashlib
from collections import defaultdict

import numpy as np

OVERSHOOT = 1.5
FEWEST_GROUPS = 8  # from so many on, a source gives at least one


def groups(cluster: np.ndarray, author: list[str]) -> np.ndarray:
    """For each document its group: a number that is equal for documents of a cluster or of an author (where not
    empty)."""
    parents = np.arange(len(cluster))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = int(parents[node])
        return node

    first_of: dict[str, int] = {}
    for document, (similar, name) in enumerate(zip(cluster.tolist(), author, strict=True)):
        for other in (similar, first_of.setdefault(name, document)) if name else (similar,):
            a, b = root(document), root(other)
            parents[max(a, b)] = min(a, b)
    return np.array([root(document) for document in range(len(cluster))], np.int64)


def choose(group: np.ndarray, ids: list[bytes], source: list[str], characters: np.ndarray, share: float) -> np.ndarray:
    """Which of the documents (N, bool) are held back: about `share` of each source's characters."""
    held = np.zeros(len(ids), bool)
    if share <= 0 or not ids:
        return held
    members: dict[int, list[int]] = defaultdict(list)
    for document, number in enumerate(group.tolist()):
        members[number].append(document)
    per_source: dict[str, list[tuple[str, int, list[int]]]] = defaultdict(list)
    for documents in members.values():
        key = min(ids[document] for document in documents)
        owner = min(source[document] for document in documents)
        size = int(characters[documents].sum())
        per_source[owner].append((hashlib.sha256(b"hold back" + key).hexdigest(), size, documents))
    for candidates in per_source.values():
        target = share * sum(size for _, size, _ in candidates)
        total = 0
        for _, size, documents in sorted(candidates):
            if total < target and total + size <= OVERSHOOT * target:
                held[documents] = True
                total += size
        if total == 0 and len(candidates) >= FEWEST_GROUPS:
            held[min((size, key, documents) for key, size, documents in candidates)[2]] = True
    everything = [candidate for candidates in per_source.values() for candidate in candidates]
    if not held.any() and len(everything) > 1:
        held[min((size, key, documents) for key, size, documents in everything)[2]] = True
    return held
