"""What flows through this room: documents, refused documents, and their Arrow tables."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a reader gives it. `uri` says where in the source it stands, or is its own address if it has
    one."""

    text: str
    uri: str
    title: str = ""
    author: str = ""
    date: str = ""
    register: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that did not get through, for the ledger. `raw` is what there is of it, for its id."""

    uri: str
    reason: str
    detail: str
    raw: bytes = b""
    title: str = ""
    score: float = 0.0
    characters: int = 0


class Unreadable(Exception):
    """A reader's word that a member is not what its format says. The member goes to the ledger as `malformed`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every document of a source carries with it."""

    source: str
    partner: str
    licence: str
    uses: tuple[str, ...]
    residency: tuple[str, ...]
    register: str


def document_id(source: str, uri: str, raw: bytes) -> str:
    """sha256 of source, uri and raw text, NUL between them: its first 32 hexadecimal digits."""
    return hashlib.sha256(b"\0".join((source.encode(), uri.encode(errors="surrogatepass"), raw))).hexdigest()[:32]


def document_schema() -> "pa.Schema":
    import pyarrow as pa

    names = ("id", "text", "source", "partner", "licence", "uses", "residency", "title", "author", "date", "uri")
    lists = ("uses", "residency")
    fields = [(name, pa.list_(pa.string()) if name in lists else pa.string()) for name in (*names, "register")]
    return pa.schema(fields)


def ledger_schema() -> "pa.Schema":
    import pyarrow as pa

    strings = [(name, pa.string()) for name in ("id", "source", "uri", "title", "reason")]
    return pa.schema(
        [*strings, ("score", pa.float64()), ("detail", pa.string()), ("characters", pa.int64())],
    )


def cuts_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("source", pa.string()), ("characters", pa.int64())])


def masks_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("category", pa.string()), ("count", pa.int64())])


def masks_of(ids: Sequence[str], masked: Sequence[Mapping[str, int]]) -> "pa.Table":
    """What was masked in documents, as a table with `masks_schema`: a row for each category in each of them."""
    import pyarrow as pa

    rows = [
        {"id": identity, "category": category, "count": number}
        for identity, found in zip(ids, masked, strict=True)
        for category, number in sorted(found.items())
    ]
    return pa.Table.from_pylist(rows, schema=masks_schema())


def table_of(documents: Sequence[tuple[str, Document]], terms: Terms) -> "pa.Table":
    """Documents with their ids, as a table with `document_schema`."""
    import pyarrow as pa

    count = len(documents)
    columns: dict[str, Any] = {
        "id": [identity for identity, _ in documents],
        "uses": [list(terms.uses)] * count,
        "residency": [list(terms.residency)] * count,
        "register": [document.register or terms.register for _, document in documents],
    }
    for name in ("source", "partner", "licence"):
        columns[name] = [getattr(terms, name)] * count
    for name in ("text", "title", "author", "date", "uri"):
        columns[name] = [getattr(document, name) for _, document in documents]
    return pa.table({name: columns[name] for name in document_schema().names}, schema=document_schema())


def ledger_of(rows: Iterator[tuple[str, Refused]] | Sequence[tuple[str, Refused]], source: str) -> "pa.Table":
    """Refused documents with their ids, as a table with `ledger_schema`."""
    import pyarrow as pa

    listed = [
        {
            "id": identity,
            "source": source,
            "uri": refused.uri,
            "title": refused.title,
            "reason": refused.reason,
            "score": refused.score,
            "detail": refused.detail,
            "characters": refused.characters,
        }
        for identity, refused in rows
    ]
    return pa.Table.from_pylist(listed, schema=ledger_schema())
