"""Large files cut into members while they stream by: at line ends, records, pages or rows."""

from collections.abc import Iterator

from kiban.corpus.archives import Readable
from kiban.corpus.documents import Refused
from kiban.corpus.readers.member import Extraction, Member

MOST_MEMBER_BYTES = 64 << 20  # a document above this is none; formats that can be cut may have larger files


def lines(name: str, stream: Readable, extraction: Extraction, piece_bytes: int) -> Iterator[Member | Refused]:
    """Whole lines, about `piece_bytes` at a time."""
    rest, line = b"", 0
    while block := stream.read(piece_bytes):
        whole, newline, begun = block.rpartition(b"\n")
        if newline:
            data = rest + whole + newline
            yield Member(name, data, line, extraction=extraction)
            line += data.count(b"\n")
            rest = begun
        else:
            rest += begun
        if len(rest) > MOST_MEMBER_BYTES:
            yield too_large(f"{name}#{line + 1}")
            while (block := stream.read(piece_bytes)) and b"\n" not in block:
                pass
            rest = block.partition(b"\n")[2]
            line += 1
    if rest:
        yield Member(name, rest, line, extraction=extraction)


def mediawiki_pages(
    name: str, stream: Readable, extraction: Extraction, piece_bytes: int
) -> Iterator[Member | Refused]:
    """Whole `<page>` elements of a MediaWiki export, about a piece at a time, after the `<siteinfo>` of the dump."""
    rest, site, page = b"", b"", 0
    while block := stream.read(piece_bytes):
        rest += block
        if not site and b"</siteinfo>" in rest:
            head, end, rest = rest.partition(b"</siteinfo>")
            site = head[head.find(b"<siteinfo") :] + end
        whole, end, begun = rest.rpartition(b"</page>")
        if end:
            yield Member(name, site + whole + end, page, extraction=extraction)
            page += whole.count(b"</page>") + 1
            rest = begun
        if len(rest) > MOST_MEMBER_BYTES:
            yield too_large(f"{name}#{page + 1}")
            rest = b""
    if rest.strip() and rest.strip() != b"</mediawiki>":
        yield Refused(f"{name}#{page + 1}", "damaged", "the dump ends within a page or holds none", rest)


def too_large(uri: str) -> Refused:
    return Refused(uri, "too_large", f"more than {MOST_MEMBER_BYTES >> 20} MiB: no single document")
