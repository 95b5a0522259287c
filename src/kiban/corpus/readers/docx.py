"""Word documents (.docx): paragraphs as lines, the cells of a table parted by a wide space, footnotes at the end. What
was deleted with changes tracked, readings (ruby) and codes of fields are left out."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member
from kiban.corpus.readers.packed import Packed

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
DC = "{http://purl.org/dc/elements/1.1/}"
TERMS = "{http://purl.org/dc/terms/}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
LEFT_OUT = {W + name for name in ("del", "moveFrom", "rt", "instrText", "pPr", "rPr", "sectPr")} | {FALLBACK}


def read(member: Member, encoding: str) -> Iterator[Document]:
    packed = Packed(member.data)
    body = packed.xml("word/document.xml").find(W + "body")
    if body is None:
        raise Unreadable("word/document.xml has no body")
    lines = list(_lines(body))
    if "word/footnotes.xml" in packed.names:
        for note in packed.xml("word/footnotes.xml").findall(W + "footnote"):
            if note.get(W + "type") is None:  # others are the lines between text and notes
                lines += _lines(note)
    title = author = date = ""
    if "docProps/core.xml" in packed.names:
        core = packed.xml("docProps/core.xml")
        title, author = core.findtext(DC + "title") or "", core.findtext(DC + "creator") or ""
        date = (core.findtext(TERMS + "modified") or core.findtext(TERMS + "created") or "")[:10]
    yield Document("\n".join(lines), member.name, title, author, date)


def _lines(block: ElementTree.Element) -> Iterator[str]:
    for child in block:
        if child.tag == W + "p":
            yield _text(child)
        elif child.tag == W + "tbl":
            for row in child.iter(W + "tr"):
                yield "　".join("".join(_lines(cell)) for cell in row.findall(W + "tc"))
        elif child.tag not in LEFT_OUT:  # what content stands in: controls, custom XML, tracked insertions
            yield from _lines(child)


def _text(paragraph: ElementTree.Element) -> str:
    parts: list[str] = []

    def walk(node: ElementTree.Element) -> None:
        for child in node:
            if child.tag in (W + "t", W + "noBreakHyphen"):
                parts.append(child.text or ("-" if child.tag.endswith("Hyphen") else ""))
            elif child.tag == W + "tab":
                parts.append("\t")
            elif child.tag in (W + "br", W + "cr"):
                parts.append("\n")
            elif child.tag not in LEFT_OUT:
                walk(child)

    walk(paragraph)
    return "".join(parts)
