"""The Standard Law XML of e-Gov: provisions as lines, as the law is printed.

The table of contents is left out (it repeats the headings), and so are readings (Rt). DTDs are refused.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member

LEFT_OUT = {"TOC", "Rt", "Fig", "QuoteStruct"}
# A heading or number opens a line and the sentences that belong to it follow behind a wide space.
OPENS = re.compile(r"(Paragraph|Item|Subitem\d*|Article|Division|Class)(Num|Title)$")
LINE = re.compile(
    r"(LawNum|LawTitle|EnactStatement|\w*(Chapter|Part|Section|Subsection|Division)Title|ArticleCaption"
    r"|ParagraphCaption|\w+Label|ParagraphSentence|ItemSentence|Subitem\d*Sentence|TableRow|TableHeaderRow|ListSentence"
    r"|AppdxTableTitle|AppdxStyleTitle|RelatedArticleNum|RemarksLabel|Preamble|AmendProvisionSentence|StyleStruct)$"
)


def read(member: Member, encoding: str) -> Iterator[Document]:
    text = member.data.decode(encoding)
    if "<!DOCTYPE" in text[:4096] or "<!ENTITY" in text:
        raise Unreadable("has a document type definition, which laws do not have")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as error:
        raise Unreadable(f"not XML: {error}") from None
    if root.tag != "Law":
        root = next(root.iter("Law"), root)
    if root.tag != "Law":
        raise Unreadable(f"the root element is {root.tag}, not Law")
    lines: list[str] = []
    opened = _lines(root, lines, "")
    if opened:
        lines.append(opened)
    date = root.get("AmendmentEnforcementDate") or root.get("EnforcementDate") or root.get("PromulgateDate") or ""
    title = next((_flat(found) for found in root.iter("LawTitle")), "")
    yield Document("\n".join(lines), member.name, title, date=date.replace("/", "-"))


def _lines(element: ElementTree.Element, lines: list[str], opened: str) -> str:
    """Adds the lines of `element`. `opened` is a number or heading that waits for its sentence; what still waits is
    given back."""
    for child in element:
        if child.tag in LEFT_OUT:
            continue
        if OPENS.search(child.tag):
            text = _flat(child)
            if text:
                opened = f"{opened}　{text}" if opened else text
        elif LINE.match(child.tag):
            text = _flat(child)
            if text:
                lines.append(f"{opened}　{text}" if opened else text)
                opened = ""
        else:
            opened = _lines(child, lines, opened)
    return opened


def _flat(element: ElementTree.Element) -> str:
    """The text in `element` without readings and layout; columns and cells are parted by a wide space."""
    parts: list[str] = []

    def walk(node: ElementTree.Element) -> None:
        if node.tag in LEFT_OUT:
            return
        if node.tag in ("Column", "TableColumn", "TableHeaderColumn") and parts:
            parts.append("　")
        if node.text:
            parts.append(node.text.strip("\n\r\t "))
        for child in node:
            walk(child)
            if child.tail:
                parts.append(child.tail.strip("\n\r\t "))

    walk(element)
    return "".join(parts).strip()
