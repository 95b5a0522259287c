"""JSON lines: an object a line with `text`, and `title`, `author`, `date`, `uri` (or `url`), `register` where known."""

import json
from collections.abc import Iterator
from typing import Any

from kiban.corpus.documents import Document, Refused
from kiban.corpus.readers.member import Member

OPTIONAL = ("title", "author", "date", "register")


def records(member: Member, encoding: str) -> Iterator[tuple[str, bytes, Any] | Refused]:
    """Of each line that is not empty: where it stands, its bytes, and what it holds."""
    for number, line in enumerate(member.data.split(b"\n"), member.line + 1):
        if not line.strip():
            continue
        where = f"{member.name}#{number}"
        try:
            record = json.loads(line.decode(encoding))
        except UnicodeDecodeError as error:
            yield Refused(where, "undecodable", f"not {encoding}: {error.reason} at byte {error.start}", line)
        except (ValueError, RecursionError) as error:
            yield Refused(where, "malformed", f"not JSON: {error}", line)
        else:
            yield where, line, record


def read(member: Member, encoding: str) -> Iterator[Document | Refused]:
    for found in records(member, encoding):
        if isinstance(found, Refused):
            yield found
            continue
        where, line, record = found
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            yield Refused(where, "malformed", "no string under the key 'text'", line)
            continue
        own = record.get("uri") or record.get("url")
        known = {key: str(record[key]) for key in OPTIONAL if record.get(key) is not None}
        yield Document(record["text"], str(own) if own else where, **known)
