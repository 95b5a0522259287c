"""A source cut into pieces: some whole members, or lines of one, about 8 MiB together. A piece is the unit of work, of
resume and of output: where it is cut depends on the source alone, so any worker makes the same of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiban.corpus.archives import ARCHIVES, COMPRESSED, Damaged, entries
from kiban.corpus.documents import Refused
from kiban.corpus.readers import FORMATS, Format, demo
from kiban.corpus.readers.cut import MOST_MEMBER_BYTES, too_large
from kiban.corpus.readers.member import Extraction, Member

PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """`number` counts the pieces of the source. `others` are files that are not of the format, `consumed` how much of
    the source's files was read so far."""

    number: int
    members: tuple[Member, ...]
    refused: tuple[Refused, ...]
    others: int
    consumed: int


def pieces(
    name: str,
    format: str,
    location: Path | None,
    megabytes: float,
    seed: int,
    extraction: Extraction = Extraction(),  # noqa: B008 (frozen)
) -> Iterator[Piece]:
    """The pieces of the source `name` at `location`, or of the demo text. What is damaged or hostile is among the
    refused.

    Raises:
        KibanError: for a source that is missing or empty.
    """
    members: list[Member] = []
    refused: list[Refused] = []
    number = others = size = consumed = 0
    found = _demo(megabytes, seed) if location is None else _members(name, FORMATS[format], location, extraction)
    for item, consumed in found:  # noqa: B007
        if item is None:
            others += 1
        elif isinstance(item, Refused):
            refused.append(item)
        else:
            members.append(item)
            size += len(item.data)
        if size >= PIECE_BYTES:
            yield Piece(number, tuple(members), tuple(refused), others, consumed)
            members, refused, others, size = [], [], 0, 0
            number += 1
    if members or refused or others:
        yield Piece(number, tuple(members), tuple(refused), others, consumed)


def _demo(megabytes: float, seed: int) -> Iterator[tuple[Member, int]]:
    lines, size, first, total = [], 0, 0, 0
    for number, line in enumerate(demo.lines(megabytes, seed), 1):
        lines.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            total += size
            yield Member("demo.jsonl", b"".join(lines), first), total
            lines, size, first = [], 0, number
    yield Member("demo.jsonl", b"".join(lines), first), total + size


def _members(
    name: str, format: Format, location: Path, extraction: Extraction
) -> Iterator[tuple[Member | Refused | None, int]]:
    """Members and refusals with the bytes consumed; None for a file that is not of the format."""
    single = location.is_file() and not location.name.lower().endswith((*ARCHIVES, *COMPRESSED))
    for entry in entries(location, format.endings, name):
        if entry.stream is None:
            yield Refused(entry.name, entry.reason, entry.refusal), entry.consumed
            continue
        if not single and not entry.name.lower().endswith(format.endings):
            yield None, entry.consumed
            continue
        try:
            if format.cut:
                for item in format.cut(entry.name, entry.stream, extraction, PIECE_BYTES):
                    yield item, entry.consumed
            else:
                data = entry.stream.read(MOST_MEMBER_BYTES + 1) if entry.bytes <= MOST_MEMBER_BYTES else b""
                if entry.bytes > MOST_MEMBER_BYTES or len(data) > MOST_MEMBER_BYTES:
                    yield too_large(entry.name), entry.consumed
                else:
                    entry.stream.read(1)  # damage behind what could be read is told now: half a document is none
                    yield Member(entry.name, data, extraction=extraction), entry.consumed
        except Damaged as damage:
            yield Refused(entry.name, damage.reason, str(damage)), entry.consumed
