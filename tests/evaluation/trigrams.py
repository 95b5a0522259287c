"""A trigram model of real text: what a baseline that only knows frequencies makes of an evaluation set."""

import math
import os
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(os.environ["KIBAN_DATA"]) if os.environ.get("KIBAN_DATA") else None


class Trigrams:
    """Characters after the two before them, smoothed as Witten and Bell (1991) do: a context that goes on in more
    ways leaves more to the shorter one."""

    def __init__(self, text: str) -> None:
        self.counts = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in (1, 2, 3)]
        self.total: list[Counter[str]] = [Counter() for _ in range(3)]
        self.ways: list[Counter[str]] = [Counter() for _ in range(3)]
        for n, counts in enumerate(self.counts):
            for gram, count in counts.items():
                self.total[n][gram[:-1]] += count
                self.ways[n][gram[:-1]] += 1

    def probability(self, before: str, character: str) -> float:
        p = 1 / 20_000
        for n in range(min(2, len(before)) + 1):
            context = before[len(before) - n :]
            total, ways = self.total[n][context], self.ways[n][context]
            if total:
                p = (self.counts[n][context + character] + ways * p) / (total + ways)
        return p

    def nats(self, before: str, text: str) -> float:
        whole = before + text
        return sum(
            math.log(self.probability(whole[max(0, i - 2) : i], whole[i])) for i in range(len(before), len(whole))
        )


@cache
def trigrams() -> Trigrams:
    """Of the copies of real documents: literature, law, documentation, dialogues."""
    assert ROOT
    files = sorted(path for path in (ROOT / "smoke").rglob("*.*") if path.parent != ROOT / "smoke")
    encodings = {"aozora": "cp932", "law-html": "cp932"}
    texts = (file.read_text(encoding=encodings.get(file.parent.name, "utf-8"), errors="replace") for file in files)
    return Trigrams("\n".join(texts))
