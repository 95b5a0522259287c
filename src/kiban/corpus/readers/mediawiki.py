"""Wikipedia's XML dumps (pages-articles): the prose of articles. Left out: redirects, other namespaces, templates,
tables, references, files and categories."""

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from urllib.parse import quote

from kiban.corpus.documents import Document, Refused
from kiban.corpus.readers.member import Member

PAGE = re.compile(rb"<page>.*?</page>", re.DOTALL)
BASE = re.compile(rb"<base>([^<]{1,300}/)[^/<]*</base>")
TAGS_LEFT_OUT = {"ref", "gallery", "math", "timeline", "score", "syntaxhighlight", "source", "imagemap"}
# The names of the file and category namespaces in Japanese and English wikis.
SIDE = re.compile(r"\s*:?\s*(file|image|category|ファイル|画像|カテゴリ)\s*:", re.IGNORECASE)
BLANK = re.compile(r"\n{3,}")


def read(member: Member, encoding: str) -> Iterator[Document | Refused]:
    base = BASE.search(member.data)
    site = base[1].decode("utf-8", "backslashreplace") if base else ""
    for number, found in enumerate(PAGE.finditer(member.data), member.line + 1):
        where = f"{member.name}#{number}"
        raw = found[0]
        try:
            if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
                raise ElementTree.ParseError("a document type definition within a page")
            page = ElementTree.fromstring(raw.decode(encoding))
        except UnicodeDecodeError as error:
            yield Refused(where, "undecodable", f"not {encoding}: {error.reason} at byte {error.start}", raw)
            continue
        except ElementTree.ParseError as error:
            yield Refused(where, "malformed", f"not XML: {error}", raw)
            continue
        if page.findtext("ns", "0") != "0" or page.find("redirect") is not None:
            continue
        title = page.findtext("title", "")
        uri = site + quote(title.replace(" ", "_"), safe="/:()、。「」") if site and title else where
        try:
            text = prose(page.findtext("revision/text") or "")
        except Exception as error:  # the parser's own bugs on hostile markup
            yield Refused(uri, "malformed", f"its markup cannot be read: {error}", raw, title)
            continue
        yield Document(text, uri, title, date=page.findtext("revision/timestamp", "")[:10])


def prose(markup: str) -> str:
    """The text of wikitext as a reader sees it, without what stands beside it."""
    import mwparserfromhell
    from mwparserfromhell.nodes import Tag, Wikilink

    code = mwparserfromhell.parse(markup)
    for node in code.filter(
        recursive=True,
        matches=lambda n: (
            (isinstance(n, Tag) and (str(n.tag).strip().lower() in TAGS_LEFT_OUT or n.wiki_markup == "{|"))
            or (isinstance(n, Wikilink) and SIDE.match(str(n.title)) is not None)
        ),
    ):
        try:
            code.remove(node)
        except ValueError:  # went with the one around it
            pass
    text = html.unescape(code.strip_code(normalize=True, collapse=True, keep_template_params=False))
    return BLANK.sub("\n\n", text).strip()
