"""What a model answers, remembered on disk by content: nothing is asked twice, and what was interrupted goes on."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from kiban.artifacts.errors import KibanError
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.evaluation.scoring import TextScore

VERSION = 1  # of what a score is: raise it when the same request would get another answer

Pair = tuple[str, str]
Advance = Callable[[int], None]


class Model(Protocol):
    """Something that answers pieces of work: a method of `Scorer` by name, with its requests and what goes with them.

    `digest` is the same for the same model. `scores` says whether it gives log-likelihoods at all. Requests of
    `at_once` items make one piece. `notes` are what happened on the way that a reader of the scores must know.
    """

    name: str
    digest: str
    scores: bool
    at_once: int

    @property
    def notes(self) -> list[str]: ...

    def work(self, method: str, pieces: Sequence[Sequence[Any]], *rest: Any) -> Iterator[tuple[int, list[Any]]]:
        """Yields (number of a piece, its answers), in any order."""


class Answers:
    """`cache`: a file for what was answered; None remembers nothing beyond this object."""

    def __init__(self, model: Model, cache: Path | None) -> None:
        self.model = model
        try:
            if cache is not None:
                cache.parent.mkdir(parents=True, exist_ok=True)
            self._known = sqlite3.connect(cache or ":memory:", timeout=60)
            self._known.execute("PRAGMA journal_mode=WAL")
            self._known.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise KibanError(f"{cache}: cannot be used as a cache ({error}); delete it, or name another") from None

    def log_likelihoods(self, groups: Sequence[Sequence[Pair]], advance: Advance) -> list[list[tuple[float, int]]]:
        """For each item's (context, continuation) pairs: log-likelihood in nats, and the number of tokens."""
        found = self._ask("log_likelihoods", groups, advance, key=lambda group: max(len(c) + len(t) for c, t in group))
        return [[(float(nats), int(n)) for nats, n in group] for group in found]

    def texts(self, texts: Sequence[str], advance: Advance) -> list[TextScore]:
        return [TextScore(*scored) for [scored] in self._ask("texts", [[text] for text in texts], advance, key=_length)]

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str], advance: Advance) -> list[str]:
        """What the model writes after each prompt, until a stop string."""
        groups = [[prompt] for prompt in prompts]
        return [str(text) for [text] in self._ask("generate", groups, advance, max_tokens, tuple(stop), key=_length)]

    def _ask(
        self,
        method: str,
        groups: Sequence[Sequence[Any]],
        advance: Advance,
        *rest: Any,
        key: Callable[[Sequence[Any]], int],
    ) -> list[list[Any]]:
        """Groups of requests are answered together, those of like length in one piece of work."""
        keys = [[self._key(method, request, rest) for request in group] for group in groups]
        known = [[self._recall(k) for k in ks] for ks in keys]
        missing = sorted((i for i, group in enumerate(known) if None in group), key=lambda i: (key(groups[i]), i))
        advance(len(groups) - len(missing))
        size = self.model.at_once
        pieces = [missing[start : start + size] for start in range(0, len(missing), size)]
        asked = [[request for i in piece for request in groups[i]] for piece in pieces]
        for number, answers in self.model.work(method, asked, *rest):
            left = iter(answers)
            with self._known:
                for i in pieces[number]:
                    known[i] = [next(left) for _ in groups[i]]
                    self._known.executemany(
                        "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                        [(k, json.dumps(a, ensure_ascii=False)) for k, a in zip(keys[i], known[i], strict=True)],
                    )
            advance(len(pieces[number]))
        return known

    def _key(self, method: str, request: Any, rest: Any) -> str:
        return sha256_bytes(canonical_json([VERSION, self.model.digest, method, request, rest]))

    def _recall(self, key: str) -> Any:
        row = self._known.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])


def _length(group: Sequence[str]) -> int:
    return len(group[0])


def default_cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "kiban" / "evaluation.sqlite"
