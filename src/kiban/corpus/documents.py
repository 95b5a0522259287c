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
    """What a document carries with it. `expires` is a date, or nothing."""

    licence: str
    uses: tuple[str, ...]
    residency: tuple[str, ...]
    expires: str
    obligations: tuple[str, ...]


def document_id(source: str, uri: str, raw: bytes) -> str:
    """sha256 of source, uri and raw text, NUL between them: its first 32 hexadecimal digits."""
    return hashlib.sha256(b"\0".join((source.encode(), uri.encode(errors="surrogatepass"), raw))).hexdigest()[:32]


LISTS = ("uses", "residency", "obligations")


def document_schema() -> "pa.Schema":
    import pyarrow as pa

    first = ("id", "text", "source", "partner", "licence", "uses", "residency", "expires", "obligations")
    names = (*first, "title", "author", "date", "uri", "register", "language")
    return pa.schema([(name, pa.list_(pa.string()) if name in LISTS else pa.string()) for name in names])


def ledger_schema() -> "pa.Schema":
    import pyarrow as pa

    strings = [(name, pa.string()) for name in ("id", "source", "uri", "title", "reason")]
    return pa.schema(
        [*strings, ("score", pa.float64()), ("detail", pa.string()), ("characters", pa.int64())],
    )


def cuts_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("source", pa.string()), ("characters", pa.int64())])


def contaminated_schema() -> "pa.Schema":
    """A row for each evaluation text that a document held: `text` is its number (see `decontamination.numbered`)."""
    import pyarrow as pa

    strings = [(name, pa.string()) for name in ("id", "source", "uri")]
    return pa.schema([*strings, ("text", pa.int64()), ("share", pa.float64())])


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


def table_of(documents: Sequence[tuple[str, Document, Terms]], source: str, partner: str, register: str) -> "pa.Table":
    """Documents with their ids and terms, as a table with `document_schema`; their language is still to be found.
    `register` is that of documents which have none."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        "id": [identity for identity, _, _ in documents],
        "source": [source] * len(documents),
        "partner": [partner] * len(documents),
        "register": [document.register or register for _, document, _ in documents],
        "language": ["und"] * len(documents),
    }
    for name in ("licence", "uses", "residency", "expires", "obligations"):
        columns[name] = [getattr(terms, name) for _, _, terms in documents]
    for name in ("text", "title", "author", "date", "uri"):
        columns[name] = [getattr(document, name) for _, document, _ in documents]
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
