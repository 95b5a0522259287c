"""An index of character 3-grams over packed documents: where an exact passage can stand, without reading all text.

Consecutive documents form a block; a block has a bitmap (a Bloom filter with one hash) of the 3-grams in it. A
passage can stand only in a block that has all of its 3-grams; such blocks are decoded and searched. The index takes a
fifth of the text's bytes, is written while packing with one block in memory, and is read through a memory map.
"""

from pathlib import Path
from typing import Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel

BITS = 1 << 20  # of a block: a seventh of them set by BLOCK characters of Japanese
BLOCK = 1 << 18  # characters
FILE = "passages.bin"
BLOCKS = "passages.npy"  # the first document of each block


class PassageWriter:
    """Writes the index beside the packed tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / FILE).open("wb")
        self._bits = np.zeros(BITS // 8, np.uint8)
        self._firsts: list[int] = []
        self._documents = self._characters = 0

    def add(self, text: str) -> None:
        if not self._characters:
            self._firsts.append(self._documents)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        _mark(points, self._bits)
        self._documents += 1
        self._characters += len(points) + 1
        if self._characters >= BLOCK:
            self._end()

    def _end(self) -> None:
        self._bits.tofile(self._file)
        self._bits[:] = 0
        self._characters = 0

    def close(self) -> None:
        if self._characters:
            self._end()
        self._file.close()
        np.save(self._folder / BLOCKS, np.array(self._firsts, np.int64))


def blocks_with(folder: Path, passage: str, num_documents: int) -> list[tuple[int, int]]:
    """Ranges of documents (first, after the last) in which the passage can stand, in order. A passage of fewer than
    three characters can stand anywhere; so can any where tokens were packed without an index."""
    if not (folder / BLOCKS).is_file() or not (folder / FILE).is_file():
        return [(0, num_documents)]
    firsts = np.append(np.load(folder / BLOCKS), num_documents)
    points = np.frombuffer(passage.encode("utf-32-le"), np.uint32)
    if len(points) < 3 or len(firsts) < 2:
        possible = np.arange(len(firsts) - 1)
    else:
        bits = np.memmap(folder / FILE, np.uint8, "r").reshape(-1, BITS // 8)
        possible = np.flatnonzero(_possible(points, bits))
    return [(int(firsts[b]), int(firsts[b + 1])) for b in possible]


@numba.njit(inline="always")
def _bit(a: Any, b: Any, c: Any) -> Any:
    h = np.uint64(a) << np.uint64(42) ^ np.uint64(b) << np.uint64(21) ^ np.uint64(c)
    h = (h ^ (h >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(h >> np.uint64(44))


@kernel
def _mark(points: Any, bits: Any) -> None:
    for i in range(len(points) - 2):
        at = _bit(points[i], points[i + 1], points[i + 2])
        bits[at >> 3] |= np.uint8(1 << (at & 7))


@kernel
def _possible(points: Any, bits: Any) -> Any:
    found = np.ones(len(bits), np.bool_)
    for block in range(len(bits)):
        for i in range(len(points) - 2):
            at = _bit(points[i], points[i + 1], points[i + 2])
            if not bits[block, at >> 3] >> (at & 7) & 1:
                found[block] = False
                break
    return found
