"""gettext catalogues: the translations, a paragraph an entry, in their order.

Left out: the header, entries marked fuzzy (not checked by a translator), untranslated and obsolete entries, and
translations that repeat the original word for word.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member

ESCAPE = re.compile(r"\\(.)")
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
KEYWORD = re.compile(r'(msgctxt|msgid|msgid_plural|msgstr|msgstr\[\d+\])\s+"(.*)"\s*$')
CONTINUED = re.compile(r'"(.*)"\s*$')


@dataclass
class Entry:
    fuzzy: bool = False
    parts: dict[str, list[str]] = field(default_factory=dict)

    def text(self, keyword: str) -> str:
        return ESCAPE.sub(lambda m: ESCAPED.get(m[1], m[0]), "".join(self.parts.get(keyword, ())))


def read(member: Member, encoding: str) -> Iterator[Document]:
    paragraphs = []
    for entry in _entries(member.data.decode(encoding)):
        original = entry.text("msgid")
        translation = entry.text("msgstr") or entry.text("msgstr[0]")
        if original and translation and not entry.fuzzy and translation != original:
            paragraphs.append(translation)
    yield Document("\n\n".join(paragraphs), member.name)


def _entries(text: str) -> Iterator[Entry]:
    entry, keyword = Entry(), ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            if keyword.startswith("msgstr"):
                yield entry
                entry, keyword = Entry(), ""
            if line.startswith("#,") and "fuzzy" in line:
                entry.fuzzy = True
        elif found := KEYWORD.match(line):
            if keyword.startswith("msgstr") and found[1] in ("msgid", "msgctxt"):
                yield entry
                entry = Entry()
            keyword = found[1]
            entry.parts[keyword] = [found[2]]
        elif (found := CONTINUED.match(line)) and keyword:
            entry.parts[keyword].append(found[1])
        elif line.strip():
            raise Unreadable(f"line {number} is none that a gettext catalogue has")
    if entry.parts:
        yield entry
