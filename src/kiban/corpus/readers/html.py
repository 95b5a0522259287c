"""HTML: the text as a browser would lay it out, line by line, the cells of a table parted by a wide space. Old pages
(upper-case tags, FONT, CP932) included."""

import re
from collections.abc import Iterator

from kiban.corpus.documents import Document
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.member import Member

CHARSET = re.compile(
    rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)|<\?xml[^>]{1,99}encoding=["']([A-Za-z0-9_.:-]+)""",
    re.IGNORECASE,
)
# A line break or a tag in the source leaves a space, which Japanese does not have between its characters.
JAPANESE = r"[\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60]"
INNER_SPACE = re.compile(rf"(?<={JAPANESE}) +(?={JAPANESE}|\u3000)|(?<=\u3000) +(?={JAPANESE})")
CELLS = re.compile(r"[ \t]*\t[ \t]*")


def read(member: Member, encoding: str) -> Iterator[Document]:
    text, title = text_of(decode(member.data, encoding, declared(member.data)))
    yield Document(text, member.name, title)


def text_of(page: str) -> tuple[str, str]:
    """The text and the title of a page."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=False, list_bullets=False, form_fields=False)
    return tidy(text), (tree.title or "").strip()


def tidy(text: str) -> str:
    """The lines of an extracted page without the spaces that Japanese does not have."""
    return "\n".join(CELLS.sub("　", INNER_SPACE.sub("", line.strip(" \t"))) for line in text.splitlines())


def declared(data: bytes) -> str:
    """The encoding that a page says it is in; empty where it says none."""
    found = CHARSET.search(data[:4096])
    return (found[1] or found[2]).decode("ascii").lower() if found else ""
