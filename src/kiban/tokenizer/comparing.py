"""Tokenizers side by side: characters and bytes a token, speed and vocabulary, by domain."""

import base64
import html
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiban.artifacts.errors import KibanError

Encode = Callable[[Sequence[str]], int]  # texts -> how many tokens

# OpenAI's pattern of o200k_base, for ranks whose own pattern is not known.
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


@dataclass(frozen=True)
class Contestant:
    name: str
    vocabulary: int
    encode: Encode


@dataclass(frozen=True)
class Figure:
    """`seconds`: the median of the rounds."""

    tokenizer: str
    vocabulary: int
    domain: str
    characters: int
    bytes: int
    tokens: int
    seconds: float

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    @property
    def megabytes_per_second(self) -> float:
        return self.bytes / self.seconds / 1e6


def contestant(path: Path) -> Contestant:
    """From a folder with Kiban's tokenizer.json, or a file: tokenizer.json, sentencepiece's .model, .tiktoken ranks.

    Raises:
        KibanError: for a file that is none of these, or damaged, or whose library is not installed.
    """
    if not path.exists():
        raise KibanError(f"{path}: there is no such file")
    name = f"{path.parent.name}/{path.name}" if path.is_file() else path.name
    try:
        if path.is_dir():
            return _ours(path)
        if path.suffix == ".json":
            return _hugging_face(path, name)
        if path.suffix == ".tiktoken":
            return _tiktoken(path, name)
        if path.suffix == ".model":
            return _sentencepiece(path, name)
    except KibanError:
        raise
    except Exception as error:  # each library has its own
        raise KibanError(f"{path}: cannot be read as a tokenizer ({str(error).splitlines()[0][:120]})") from None
    raise KibanError(f"{path}: not a tokenizer; give a folder of Kiban's, tokenizer.json, a .model or a .tiktoken file")


def _ours(folder: Path) -> Contestant:
    import pyarrow as pa

    from kiban.tokenizer.bpe import Tokenizer

    made = Tokenizer.load(folder)
    return Contestant(
        folder.name, made.vocab_size, lambda texts: len(made.encode_strings(pa.array(texts, pa.large_string()))[0])
    )


def _hugging_face(path: Path, name: str) -> Contestant:
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(path))
    made.no_truncation()
    made.encode_special_tokens = True

    def encode(texts: Sequence[str]) -> int:
        return sum(len(made.encode(text, add_special_tokens=False).ids) for text in texts)

    return Contestant(name, made.get_vocab_size(), encode)


def _tiktoken(path: Path, name: str) -> Contestant:
    import json

    import tiktoken

    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    beside = path.with_name("kiban_tokenizer.json")
    pattern = json.loads(beside.read_text(encoding="utf-8"))["pattern"] if beside.is_file() else O200K
    made = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Contestant(
        name, len(ranks), lambda texts: sum(len(made.encode_to_numpy(t, disallowed_special=())) for t in texts)
    )


def _sentencepiece(path: Path, name: str) -> Contestant:
    try:
        import sentencepiece
    except ImportError:
        raise KibanError(f"{path}: needs sentencepiece, which is not installed; `pip install sentencepiece`") from None
    made = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Contestant(name, made.vocab_size(), lambda texts: sum(len(made.encode(text)) for text in texts))


def compare(contestants: Sequence[Contestant], domains: dict[str, list[str]], rounds: int = 3) -> list[Figure]:
    """Each in turn, `rounds` times, on one core; one round more before, which is not counted.

    Raises:
        KibanError: for a domain without text.
    """
    figures = []
    for domain, texts in domains.items():
        characters, num_bytes = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
        if not characters:
            raise KibanError(f"domain '{domain}': holds no text")
        tokens = [c.encode(texts) for c in contestants]
        seconds: list[list[float]] = [[] for _ in contestants]
        for _ in range(rounds):
            for number, c in enumerate(contestants):
                begin = time.process_time()
                c.encode(texts)
                seconds[number].append(max(time.process_time() - begin, 1e-9))
        for c, count, took in zip(contestants, tokens, seconds, strict=True):
            figures.append(Figure(c.name, c.vocabulary, domain, characters, num_bytes, count, statistics.median(took)))
    return figures


def picture(figures: Sequence[Figure]) -> str:
    """An SVG: a bar of characters a token for each tokenizer in each domain."""
    most = max(figure.characters_per_token for figure in figures)
    shades = ("#1f6f8b", "#99a8b2", "#c8813a", "#6a8f4e", "#8a6fb0", "#b05c6f")
    names = list(dict.fromkeys(figure.tokenizer for figure in figures))
    y, parts, domain = 8.0, [], ""
    for figure in figures:
        if figure.domain != domain:
            domain = figure.domain
            parts.append(f'<text x="8" y="{y + 16}" font-weight="bold">{html.escape(domain)}</text>')
            y += 26
        width = 360 * figure.characters_per_token / most
        label = f"{figure.tokenizer} ({figure.vocabulary:,})"
        parts.append(f'<text x="262" y="{y + 12}" text-anchor="end">{html.escape(label)}</text>')
        shade = shades[names.index(figure.tokenizer) % len(shades)]
        parts.append(f'<rect x="270" y="{y}" width="{width:.1f}" height="16" fill="{shade}"/>')
        parts.append(f'<text x="{276 + width:.1f}" y="{y + 12}">{figure.characters_per_token:.2f}</text>')
        y += 22
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{y + 30:.0f}" font-family="sans-serif"'
    foot = f'<text x="270" y="{y + 18}">characters a token: more is better</text>'
    return f'{head} font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}{foot}</svg>\n'
