"""WARC, as web archives and Common Crawl keep pages: the main content of HTML pages, plain text as it is, and the text
of WET files. `extract` names what takes the content out: `resiliparse`, or `trafilatura`, some ten times slower, which
finds author and date too. Both work in a process that is killed after `extract_seconds`.

Answers other than 200 and what is neither HTML nor text count as files of another format.
"""

from collections.abc import Iterator

from kiban.corpus.archives import Damaged, Readable
from kiban.corpus.documents import Document, Refused, Unreadable
from kiban.corpus.readers.cut import MOST_MEMBER_BYTES, too_large
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.html import declared, tidy
from kiban.corpus.readers.isolated import worker
from kiban.corpus.readers.member import Extraction, Member

HTML = ("text/html", "application/xhtml+xml")
RECORD_END = b"\r\n\r\n"


class _Watched:
    """A stream for fastwarc that remembers how it ended: fastwarc takes an end within a record for the record's."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._given = 0
        self.tail = b""
        self.damage: Damaged | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read(size)
        except Damaged as damage:
            self.damage = damage
            return b""
        self._given += len(data)
        self.tail = (self.tail + data[-4:])[-4:]
        return data

    def tell(self) -> int:
        return self._given

    def seek(self, offset: int, whence: int = 0) -> int:
        raise OSError("a stream that cannot be wound back")

    def close(self) -> None: ...


def cut(name: str, stream: Readable, extraction: Extraction, piece_bytes: int) -> Iterator[Member | Refused | None]:
    """A member for each page. One is held back until the next is reached, since the last may be cut short."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    watched = _Watched(stream)
    wanted = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    held: Member | None = None
    number = 0
    broken = ""
    try:
        for record in ArchiveIterator(watched, record_types=wanted, parse_http=True, auto_decode="all"):
            if held is not None:
                yield held
                held = None
            number += 1
            uri = (record.headers.get("WARC-Target-URI") or "").strip("<>") or f"{name}#{number}"
            kind = (record.http_content_type or record.headers.get("Content-Type") or "").split(";")[0].strip().lower()
            status = record.http_headers.status_code if record.http_headers is not None else 200
            if status != 200 or kind not in (*HTML, "text/plain"):
                yield None
                continue
            data = record.reader.read(MOST_MEMBER_BYTES + 1)
            if len(data) > MOST_MEMBER_BYTES:
                yield too_large(uri)
                continue
            date = (record.headers.get("WARC-Date") or "")[:10]
            held = Member(uri, data, 0, record.http_charset or "", kind, date, extraction)
    except Exception as error:
        broken = str(error)
    except BaseException as error:  # a panic of fastwarc's is no Exception
        if type(error).__name__ != "PanicException":
            raise
        broken = str(error)
    if watched.damage is not None:
        broken = str(watched.damage)
    elif not broken and watched.tail not in (b"", RECORD_END):
        broken = "ends within a record"
    if held is not None:
        yield Refused(held.name, "damaged", f"the record is cut short: {broken}", held.data) if broken else held
    if broken or number == 0:
        why = broken or "there is no page in it"
        yield Refused(
            f"{name}#{number + 1}", "damaged" if broken else "malformed", f"no WARC from here on: {why}"[:500]
        )


def read(member: Member, encoding: str) -> Iterator[Document]:
    if member.kind not in HTML:
        yield Document(decode(member.data, encoding, member.charset), member.name, date=member.date)
        return
    page = decode(member.data, encoding, declared(member.data) or member.charset)
    found = worker(member.extraction.extractor).ask(page.encode(), member.extraction.seconds)
    if not found["text"].strip():
        raise Unreadable(f"{member.extraction.extractor} finds no content in it")
    yield Document(
        tidy(found["text"]),
        member.name,
        found.get("title", ""),
        found.get("author", ""),
        found.get("date") or member.date,
    )
