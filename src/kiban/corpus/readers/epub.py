"""EPUB: the chapters in the order of the book's spine, as `html` reads them; readings (ruby) are left out."""

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.encoding import DETECT, decode
from kiban.corpus.readers.html import declared, text_of
from kiban.corpus.readers.member import Member
from kiban.corpus.readers.packed import Packed

CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
OPF = "{http://www.idpf.org/2007/opf}"
DC = "{http://purl.org/dc/elements/1.1/}"
READING = re.compile(r"<(rt|rp)\b[^>]{0,200}>[^<]{0,200}</\1>", re.IGNORECASE)


def read(member: Member, encoding: str) -> Iterator[Document]:
    packed = Packed(member.data)
    if "META-INF/encryption.xml" in packed.names and b"EncryptedData" in packed.part("META-INF/encryption.xml"):
        raise Unreadable("is encrypted (DRM); ask the partner for a copy without it")
    root = packed.xml("META-INF/container.xml").find(f".//{CONTAINER}rootfile")
    if root is None or not root.get("full-path"):
        raise Unreadable("META-INF/container.xml names no package")
    path = root.get("full-path", "")
    book = packed.xml(path)
    parts = {item.get("id"): item for item in book.iter(OPF + "item")}
    chapters = []
    for reference in book.iter(OPF + "itemref"):
        item = parts.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        if item.get("media-type") not in ("application/xhtml+xml", "text/html"):
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(item.get("href", ""))))
        data = packed.part(name)
        text, _ = text_of(READING.sub("", decode(data, DETECT, declared(data))))
        if text.strip():
            chapters.append(text.strip("\n"))
    title, author = (book.findtext(f".//{DC}{key}") or "" for key in ("title", "creator"))
    yield Document(
        "\n\n".join(chapters), member.name, title.strip(), author.strip(), (book.findtext(f".//{DC}date") or "")[:10]
    )
