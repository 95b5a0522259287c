"""Models behind an OpenAI-compatible endpoint. Half an answer is asked for again and recorded, never scored."""

import hashlib
import http.client
import json
import os
import re
import threading
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.evaluation.suite import Item

TRIES = 4
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that may be otherwise in a while
LETTERS = "ABCDEFGH"


class _Half(Exception):
    """An answer that lacks something."""


class Endpoint:
    """`url` ends before `/chat/completions`. The key is read from OPENAI_API_KEY, if there is one.

    It gives log-likelihoods (`scores`) if completions honour `echo` with `logprobs`, as vLLM's do; else it is asked to
    name a choice. There, a line end stands for the beginning of a text.

    Raises:
        KibanError: if it cannot be reached, or refuses.
    """

    at_once = 1

    def __init__(self, url: str, model: str, timeout: float = 120.0, concurrent: int = 8, pause: float = 1.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise KibanError(f"endpoint '{url}' is no address; it begins with http:// or https://")
        self.url, self.name = url.rstrip("/"), model
        self.timeout, self.concurrent, self.pause = timeout, concurrent, pause
        self.retried = 0
        self._lock = threading.Lock()
        self.scores = self._echoes()
        self.digest = sha256_bytes(canonical_json(["endpoint", self.url, model]))

    @property
    def notes(self) -> list[str]:
        return [f"{self.retried} requests had to be sent again"] if self.retried else []

    def work(self, method: str, pieces: Sequence[Sequence[Any]], *rest: Any) -> Iterator[tuple[int, list[Any]]]:
        asks: dict[str, Callable[..., Any]] = {"generate": self._generate, "log_likelihoods": self._log_likelihood}
        ask = asks[method]
        with ThreadPoolExecutor(self.concurrent) as pool:
            try:
                waiting = {
                    pool.submit(lambda piece: [ask(request, *rest) for request in piece], piece): number
                    for number, piece in enumerate(pieces)
                }
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _generate(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> str:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
        body |= {"temperature": 0, **({"stop": list(stop)} if stop else {})}
        return str(self._asked("chat/completions", body, _written))

    def _log_likelihood(self, pair: tuple[str, str]) -> tuple[float, int]:
        context, continuation = pair[0] or "\n", pair[1]
        before, text = len(context.rstrip()), context + continuation
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        tokens = self._asked("completions", body, _echoed)
        scored = [
            nats
            for (start, nats), end in zip(tokens, [start for start, _ in tokens[1:]] + [len(text)], strict=True)
            if (before <= start or before < end) and start < len(text)  # a part of a character has no width
        ]
        if before == 0:  # nothing is known of the first token
            scored = scored[1:]
        if not scored or None in scored:
            raise KibanError(f"{self.url}: gives no log-likelihood for '{continuation[:40]}'; it cannot be scored")
        return sum(scored), len(scored)

    def _echoes(self) -> bool:
        body = {"prompt": "はい", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            self._asked("completions", body, _echoed)
        except KibanError as error:
            if "cannot be reached" in str(error):
                raise
            return False
        return True

    def _asked(self, path: str, body: dict[str, Any], read: Any) -> Any:
        """The answer as `read` takes it, asked for at most `TRIES` times."""
        data = json.dumps({"model": self.name, **body}).encode()
        key = os.environ.get("OPENAI_API_KEY")
        head = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        trouble = ""
        for attempt in range(TRIES):
            if attempt:
                with self._lock:
                    self.retried += 1
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(f"{self.url}/{path}", data, head)
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return read(json.loads(answer.read()))
            except urllib.error.HTTPError as error:
                trouble = f"status {error.code} ({_said(error)})"
                if error.code not in AGAIN:
                    raise KibanError(f"{self.url}: refuses {path}: {trouble}") from None
            except _Half as error:
                trouble = f"half an answer ({error})"
            except (json.JSONDecodeError, UnicodeDecodeError, http.client.HTTPException) as error:
                trouble = f"half an answer ({type(error).__name__})"
            except (TimeoutError, OSError) as error:
                reason = getattr(error, "reason", error)
                timed_out = isinstance(reason, TimeoutError)
                trouble = f"no answer in {self.timeout:g} s" if timed_out else f"it cannot be reached ({reason})"
        raise KibanError(
            f"{self.url}: {path} failed {TRIES} times, at last with {trouble}; what was answered is kept, run again"
        )


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def _written(answer: Any) -> str:
    try:
        [choice] = answer["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise _Half(f"no choice with a message and how it finished: {type(error).__name__}") from None
    if not isinstance(text, str) or finish not in ("stop", "length"):
        raise _Half(f"content is {type(text).__name__}, finish_reason {finish!r}")
    return text


def _echoed(answer: Any) -> list[tuple[int, float | None]]:
    """(offset of a token in the text, its log-probability)."""
    try:
        found = answer["choices"][0]["logprobs"]
        return list(zip(found["text_offset"], found["token_logprobs"], strict=True))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _Half(f"no logprobs: {type(error).__name__}") from None


def ask_by_letter(item: Item) -> tuple[str, list[int]]:
    """A question whose answer is a letter, and which choice each letter stands for."""
    order = sorted(range(len(item.choices)), key=lambda i: hashlib.sha256(f"{item.id}:{i}".encode()).digest())
    listed = "\n".join(f"{LETTERS[place]}. {item.choices[i]}" for place, i in enumerate(order))
    if item.asked.strip():
        head = f"{item.asked.rstrip()}\n\n上に続くもの、または答えとして最も適切なものを次から一つ選び、"
    else:
        head = "次のうち、日本語として最も適切な文を一つ選び、"
    return f"{head}記号だけを答えてください。\n{listed}\n記号：", order


def letter_of(text: str, number: int) -> int | None:
    """Which of the first `number` letters an answer names; None if it names none or several."""
    plain = unicodedata.normalize("NFKC", text)
    named = set(re.findall(rf"(?<![A-Za-z])[{LETTERS[:number]}](?![A-Za-z])", plain))
    return LETTERS.index(named.pop()) if len(named) == 1 else None
