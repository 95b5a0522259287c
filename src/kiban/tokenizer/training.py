"""Training: from texts to the tokens of a vocabulary, in two stages.

The first stage learns within words. The second encodes what was read by clauses and goes on merging there. Characters
compete with merges for their places by the same measure, their count, as if all had been learnt from bytes; they rank
below merges, which changes no encoding, since no merge reaches into a character.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.tokenizer.counting import PieceCounts
from kiban.tokenizer.encoding import Tables, symbols_of
from kiban.tokenizer.learning import BASE, hash_of, learn

LONGEST_TOKEN = 16  # characters


def learn_tokens(texts: Iterable[str], room: int, second_stage: float, special: Sequence[str]) -> list[bytes]:
    """The tokens beyond the bytes, in order of rank: `room` of them, fewer if no pair occurs twice any more.

    Args:
        second_stage: the share of `room` that is learnt over clauses; 0 for a tokenizer by words.
        special: the special tokens, whose ids come first.
    """
    words = PieceCounts(by_clauses=False)
    clauses = PieceCounts(by_clauses=True)
    for text in texts:
        words.add(text)
        if second_stage:
            clauses.add(text)
    tokens = _within_words(words, room - int(room * second_stage))
    if second_stage and len(tokens) < room:
        tokens += _over_clauses(clauses, tokens, room - len(tokens), special)
    return tokens


def _within_words(words: PieceCounts, room: int) -> list[bytes]:
    characters, counts = _characters(words)
    symbol = np.full(0x110000, -1, np.int32)
    symbol[characters] = np.arange(len(characters))
    symbols, weights = _laid_out(words.points, words.starts, words.counts, symbol)
    hashes = np.array([hash_of(int(c)) for c in characters], np.uint64)
    merges, merged = learn(symbols, weights, hashes, np.ones(len(characters), np.int32), room, LONGEST_TOKEN)
    # what is within characters: two bytes, three, all of them; the more frequent first
    within: dict[bytes, int] = {}
    for character, count in zip(characters, counts, strict=True):
        spelt = chr(character).encode()
        for length in range(2, len(spelt) + 1):
            within[spelt[:length]] = within.get(spelt[:length], 0) + int(count)
    ranked = sorted((-count, len(token), token) for token, count in within.items() if count > 1)
    # as many of both as have room together, taken by count
    all_counts = np.sort(np.concatenate([[-count for count, _, _ in ranked], merged]).astype(np.int64))[::-1]
    least = int(all_counts[room - 1]) if len(all_counts) >= room else 0
    kept = [token for count, _, token in ranked if -count >= least][:room]
    spelt_of = [chr(character).encode() for character in characters]
    for left, right in merges:
        spelt_of.append(spelt_of[left] + spelt_of[right])
    return kept + spelt_of[len(characters) : len(characters) + room - len(kept)]


def _over_clauses(clauses: PieceCounts, tokens: list[bytes], room: int, special: Sequence[str]) -> list[bytes]:
    known = [bytes([byte]) for byte in range(256)] + tokens
    tables = Tables.of(known, special)
    texts = [token.decode(errors="ignore") for token in known]
    sizes = np.array([len(text) for text in texts], np.int32)
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    character_hashes = np.array([hash_of(int(c)) for c in points], np.uint64)
    hashes = _token_hashes(character_hashes, starts)
    for i in np.flatnonzero(sizes == 0):
        hashes[i] = i  # a part of a character
    symbols, weights = _encoded(
        clauses.points, clauses.starts, clauses.counts, tables.character, tables.pairs, tables.first, sizes
    )
    merges, _ = learn(symbols, weights, hashes, sizes, room, LONGEST_TOKEN)
    spelt_of = list(known)
    for left, right in merges:
        spelt_of.append(spelt_of[left] + spelt_of[right])
    return spelt_of[len(known) :]


def _characters(words: PieceCounts) -> tuple[np.ndarray, np.ndarray]:
    """The distinct characters and how often each occurs."""
    totals = _character_counts(words.points, words.starts, words.counts)
    characters = np.flatnonzero(totals)
    return characters, totals[characters]


@kernel
def _character_counts(points: Any, starts: Any, counts: Any) -> Any:
    totals = np.zeros(0x110000, np.int64)
    for piece in range(len(counts)):
        for i in range(starts[piece], starts[piece + 1]):
            totals[points[i]] += counts[piece]
    return totals


@kernel
def _laid_out(points: Any, starts: Any, counts: Any, symbol: Any) -> Any:
    n = len(points) + len(counts) + 1
    symbols, weights = np.full(n, -1, np.int32), np.zeros(n, np.int32)
    to = 1
    for piece in range(len(counts)):
        for i in range(starts[piece], starts[piece + 1]):
            symbols[to] = symbol[points[i]]
            weights[to] = counts[piece]
            to += 1
        to += 1
    return symbols, weights


@kernel
def _encoded(points: Any, starts: Any, counts: Any, character: Any, pairs: Any, first: int, sizes: Any) -> Any:
    """Pieces as numbers of tokens, -1 between them and in the place of parts of characters."""
    n = 4 * 2048
    work, ranks = np.empty(n, np.int32), np.empty(n, np.int32)
    room = len(points) + len(counts) + 1
    symbols, weights = np.full(room, -1, np.int32), np.zeros(room, np.int32)
    to = 1
    for piece in range(len(counts)):
        m = symbols_of(points[starts[piece] : starts[piece + 1]], character, pairs, first, work, ranks)
        for i in range(m):
            token = work[i] - first
            if sizes[token] > 0:
                symbols[to], weights[to] = token, counts[piece]
                to += 1
            elif symbols[to - 1] != -1:
                to += 1
        if symbols[to - 1] != -1:
            to += 1
    return symbols[: to + 1].copy(), weights[: to + 1].copy()


@kernel
def _token_hashes(hashes: Any, starts: Any) -> Any:
    out = np.zeros(len(starts) - 1, np.uint64)
    for t in range(len(out)):
        for i in range(starts[t], starts[t + 1]):
            out[t] = out[t] * BASE + hashes[i]
    return out
