"""Generation for the server: one model, one request at a time, text that never breaks inside a character."""

import codecs
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiban.artifacts.errors import KibanError
from kiban.model import hf
from kiban.model.generate import generate
from kiban.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """As in the API. Temperature 0 takes the likeliest token."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that became certain with one more token; `finish` is set on the last: stop, or length."""

    text: str
    tokens: int
    finish: str | None = None


class Engine:
    """Raises KibanError if `folder` is no exported model."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise KibanError(f"{folder}: holds no config.json; give a folder that `kiban export` wrote")
        self.model = hf.load(folder)
        self.words = Tokenizer.load(folder)
        self.name = folder.absolute().name
        self.context = self.model.config.max_position_embeddings
        self._lock = threading.Lock()

    def complete(self, prompt: Sequence[int], sampling: Sampling) -> Generator[Piece, None, None]:
        """Pieces of text as they come. A stop string is not part of the text; what might begin one is kept back."""
        ends = {self.words.eos_id, self.words.special["<|end|>"]}
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        held, tokens = "", 0
        with self._lock:
            drawn = generate(
                self.model, list(prompt), sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed, ends
            )
            for token, _ in drawn:
                if token in ends:
                    yield Piece(held + decoder.decode(b"", final=True), tokens, "stop")
                    return
                tokens += 1
                held += decoder.decode(self.words.decode_bytes([token]))
                cut = min((at for stop in sampling.stop if (at := held.find(stop)) >= 0), default=-1)
                if cut >= 0:
                    yield Piece(held[:cut], tokens, "stop")
                    return
                keep = _may_begin(held, sampling.stop)
                yield Piece(held[: len(held) - keep], tokens)
                held = held[len(held) - keep :]
        yield Piece(held + decoder.decode(b"", final=True), tokens, "length")


def _may_begin(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
