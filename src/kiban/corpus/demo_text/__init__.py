"""Japanese text written for Kiban, so that a programme can be tried without an archive: see README.md here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kiban.corpus.demo_text import noise
from kiban.corpus.demo_text.grammar import compose_document

PASSAGES = Path(__file__).parent / "passages"
NOISE = 0.15  # of the composed documents


@dataclass(frozen=True)
class Passage:
    """A passage by hand."""

    register: str
    title: str
    text: str


def passages() -> list[Passage]:
    """All passages, in the order of their files."""
    found = []
    for path in sorted(PASSAGES.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").split("■ ")[1:]:
            title, _, text = block.partition("\n")
            found.append(Passage(path.stem, title.strip(), text.strip()))
    return found


def compose(megabytes: float, seed: int) -> Iterator[dict[str, str]]:
    """About `megabytes` of UTF-8: the passages by hand, then composed documents with noise among them.

    Deterministic for a seed, on any machine. Keys: text, title, author, date, uri, register.
    """
    rng = Random(seed)
    size = 0
    texts: list[tuple[str, str, str]] = []
    for number, passage in enumerate(passages(), 1):
        yield _document(passage.register, f"passage-{number}", passage.title, passage.text)
        size += len(passage.text.encode())
    number = 0
    while size < megabytes * 1e6:
        number += 1
        register, title, text = compose_document(rng)
        if rng.random() < NOISE and texts:
            register, title, text = _noisy(rng, texts, register, title, text)
        else:
            texts.append((register, title, text))
            if len(texts) > 200:
                texts.pop(0)
        yield _document(register, str(number), title, text)
        size += len(text.encode())


def _document(register: str, number: str, title: str, text: str) -> dict[str, str]:
    uri = f"kiban:demo/{register}/{number}"
    return {"text": text, "title": title, "author": "", "date": "", "uri": uri, "register": register}


def _noisy(
    rng: Random, before: list[tuple[str, str, str]], register: str, title: str, text: str
) -> tuple[str, str, str]:
    """The document with one kind of noise in it, or noise in its place."""
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(before)
    if kind == 1:
        register, title, text = rng.choice(before)
        return register, title, noise.near_copy(rng, text)
    if kind == 2:
        return register, title, noise.half_width(text)
    if kind == 3:
        return register, title, rng.choice(noise.FURNITURE) + text + "\n" + rng.choice(noise.FURNITURE)
    if kind == 4:
        return register, title, f"{text}\n{noise.personal_data(rng)}"
    if kind == 5:
        return register, title, noise.mojibake(text)
    if kind == 6:
        return register, "広告", noise.spam(rng)
    if kind == 7:
        return register, "測定値", noise.table(rng)
    return register, "Inspection", noise.english(rng)
