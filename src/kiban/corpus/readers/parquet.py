"""Parquet: a document a row, with the columns that `jsonl` has as keys; `columns` names others."""

from collections.abc import Iterator
from typing import Any

from kiban.corpus.archives import Readable
from kiban.corpus.documents import Document, Refused, Unreadable
from kiban.corpus.readers.cut import MOST_MEMBER_BYTES, too_large
from kiban.corpus.readers.member import Extraction, Member

FIELDS = ("text", "uri", "title", "author", "date", "register")
ROWS = 256


def cut(name: str, stream: Readable, extraction: Extraction, piece_bytes: int) -> Iterator[Member | Refused]:
    """Rows, about `piece_bytes` at a time, each member an Arrow stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source: Any = stream
    if not hasattr(stream, "seek"):  # within an archive
        data = stream.read(MOST_MEMBER_BYTES + 1)
        if len(data) > MOST_MEMBER_BYTES:
            yield too_large(name)
            return
        source = pa.BufferReader(data)
    row = begun = 0
    gathered: list[pa.RecordBatch] = []
    try:
        file = pq.ParquetFile(source)
        present = set(file.schema_arrow.names)
        wanted = [column for column in map(extraction.column, FIELDS) if column in present]
        if "url" in present and extraction.column("uri") not in present:
            wanted.append("url")
        if extraction.column("text") not in present:
            detail = f"no column '{extraction.column('text')}' (columns: {', '.join(sorted(present))[:300]})"
            yield Refused(name, "malformed", f"{detail}; name it under `columns`")
            return
        for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
            gathered.append(batch)
            row += len(batch)
            if sum(part.nbytes for part in gathered) >= piece_bytes:
                yield Member(name, _stream(gathered), begun, extraction=extraction)
                gathered, begun = [], row
    except (pa.ArrowException, OSError, ValueError, MemoryError, NotImplementedError) as error:
        yield Refused(f"{name}#{row + 1}", "damaged", f"no Parquet from here on: {str(error)[:300]}")
    if gathered:
        yield Member(name, _stream(gathered), begun, extraction=extraction)


def _stream(batches: list[Any]) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def read(member: Member, encoding: str) -> Iterator[Document | Refused]:
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(member.data).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Unreadable(f"not an Arrow stream: {error}") from None
    columns = {field: member.extraction.column(field) for field in FIELDS}
    if columns["uri"] not in table.column_names and "url" in table.column_names:
        columns["uri"] = "url"
    for row in range(len(table)):
        where = f"{member.name}#{member.line + row + 1}"
        try:
            found = {
                field: table[column][row].as_py() for field, column in columns.items() if column in table.column_names
            }
            if isinstance(found.get("text"), bytes):
                found["text"] = found["text"].decode("utf-8")
        except UnicodeDecodeError as error:
            yield Refused(where, "undecodable", f"not utf-8: {error.reason} at byte {error.start}")
            continue
        except (pa.ArrowException, ValueError, OverflowError) as error:
            yield Refused(where, "malformed", f"a value that cannot be read: {str(error)[:200]}")
            continue
        if not isinstance(found.get("text"), str):
            yield Refused(where, "malformed", f"no text in column '{columns['text']}'")
            continue
        known = {field: str(value) for field, value in found.items() if value is not None and field != "uri"}
        yield Document(uri=str(found.get("uri") or where), **known)
