"""HTML: the text as a browser would lay it out, line by line, the cells of a table parted by a wide space. Old pages
(upper-case tags, FONT, CP932) included."""

import re
from collections.abc import Iterator

from kiban.corpus.documents import Document
from kiban.corpus.readers.member import Member

DECLARED = "declared"  # as the page itself says, UTF-8 where it does not
CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
# What pages call Shift_JIS holds the vendors' characters too (① and the like), and that is CP932.
SHIFT_JIS = {"shift_jis", "shift-jis", "x-sjis", "sjis", "windows-31j", "ms_kanji"}
# A line break or a tag in the source leaves a space, which Japanese does not have between its characters.
JAPANESE = r"[\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60]"
INNER_SPACE = re.compile(rf"(?<={JAPANESE}) +(?={JAPANESE}|\u3000)|(?<=\u3000) +(?={JAPANESE})")
CELLS = re.compile(r"[ \t]*\t[ \t]*")


def read(member: Member, encoding: str) -> Iterator[Document]:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(_decode(member.data, encoding))
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=False, list_bullets=False, form_fields=False)
    lines = (CELLS.sub("　", INNER_SPACE.sub("", line.strip(" \t"))) for line in text.splitlines())
    yield Document("\n".join(lines), member.name, (tree.title or "").strip())


def _decode(data: bytes, encoding: str) -> str:
    if encoding == DECLARED:
        found = CHARSET.search(data[:4096])
        name = found[1].decode("ascii").lower() if found else "utf-8"
        encoding = "cp932" if name in SHIFT_JIS else "utf-8-sig" if name in ("utf-8", "utf8") else name
    try:
        return data.decode(encoding)
    except LookupError:
        raise UnicodeDecodeError(encoding, data[:1], 0, 1, "the page declares an encoding that is not known") from None
