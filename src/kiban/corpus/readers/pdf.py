"""PDF: its text as PDFium finds it, lines as they are printed joined to paragraphs: a line that ends without a mark
of punctuation and is followed by one of Japanese goes on in it. Page numbers that stand alone are left out."""

import re
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.isolated import worker
from kiban.corpus.readers.member import Member

JAPANESE = r"[\u3041-\u30ff\u3400-\u9fff\uff21-\uff5a、]"
BROKEN = re.compile(rf"(?<={JAPANESE})\n(?={JAPANESE})")
NUMBER = re.compile(r"^[ \t]*[-－‐–—]?[ \t]*\d{1,4}[ \t]*[-－‐–—]?[ \t]*$", re.MULTILINE)


def read(member: Member, encoding: str) -> Iterator[Document]:
    if b"%PDF-" not in member.data[:1024]:
        raise Unreadable("does not begin with %PDF-")
    found = worker("pdf").ask(member.data, member.extraction.seconds)
    pages = (NUMBER.sub("", page).strip("\n") for page in found["text"].replace("\r\n", "\n").split("\f"))
    # U+FFFE is PDFium's mark for a hyphen at the end of a line.
    text = BROKEN.sub("", "\n".join(pages)).replace("\ufffe\n", "").replace("\ufffe", "")
    if not text.strip():
        raise Unreadable("holds no text: scanned pages? Read them by OCR first")
    yield Document(text, member.name, found["title"], found["author"], found["date"])
