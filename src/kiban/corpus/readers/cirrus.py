"""Wikipedia's Cirrus dumps: an object a line with `title`, `text`, `namespace` and `timestamp`; between them lines for
the index, which are no documents."""

from collections.abc import Iterator
from urllib.parse import quote

from kiban.corpus.documents import Document, Refused
from kiban.corpus.readers.jsonl import records
from kiban.corpus.readers.member import Member


def read(member: Member, encoding: str) -> Iterator[Document | Refused]:
    for found in records(member, encoding):
        if isinstance(found, Refused):
            yield found
            continue
        where, line, record = found
        if isinstance(record, dict) and ("index" in record or record.get("namespace", 0) != 0):
            continue
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            yield Refused(where, "malformed", "no string under the key 'text'", line)
            continue
        title, language = str(record.get("title") or ""), str(record.get("language") or "")
        address = f"https://{language}.wikipedia.org/wiki/{quote(title.replace(' ', '_'), safe='/:()')}"
        uri = address if title and language and str(record.get("wiki", "")).endswith("wiki") else where
        yield Document(record["text"], uri, title, date=str(record.get("timestamp") or "")[:10])
