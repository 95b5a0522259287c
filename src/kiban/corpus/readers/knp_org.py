"""KNP's raw text: a sentence a line, before it a line `# S-ID:...`.

Parentheses stand as sentences of their own, whose id line says which brackets they had and before which character of
the sentence they belong (括弧始, 括弧終, 括弧位置, brackets before it counted). They are put back.

Of analysed text (KNP's and Juman's output) the first column of each morpheme is the sentence.
"""

import re
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member

BRACKETED = re.compile(r"括弧始:(\S) 括弧終:(\S) 括弧位置:(\d+)")
# Surface, reading, base form, then part of speech and conjugation, each with its number.
MORPHEME = re.compile(r"(\S+) \S+ \S+ \S+ \d+ \S+ \d+ \S+ \d+ \S+ \d+(?: |$)")
SENTENCE_ID = re.compile(r"# S-ID:(\S+)")


def read(member: Member, encoding: str) -> Iterator[Document]:
    sentences: list[str] = []
    bracketed = None
    lines = member.data.decode(encoding).splitlines()
    if lines and not SENTENCE_ID.match(lines[0]):
        raise Unreadable("does not begin with `# S-ID:`")
    for line in _sentences(lines):
        if line.startswith("# "):
            bracketed = BRACKETED.search(line)
        elif bracketed and sentences and int(bracketed[3]) <= len(sentences[-1]):
            before, after = sentences[-1][: int(bracketed[3])], sentences[-1][int(bracketed[3]) :]
            sentences[-1] = f"{before}{bracketed[1]}{line}{bracketed[2]}{after}"
        elif line and line != "EOS":
            sentences.append(line)
    yield Document("".join(sentences), member.name)


def _sentences(lines: list[str]) -> Iterator[str]:
    """Sentences and their id lines, analysed ones put together from their morphemes."""
    surface: list[str] = []
    for line in lines:
        if line.startswith(("* ", "+ ", "@ ")):  # phrases; further analyses of the morpheme before
            continue
        if morpheme := MORPHEME.match(line):
            surface.append(morpheme[1])
            continue
        if surface:
            yield "".join(surface)
            surface = []
        yield line
    if surface:
        yield "".join(surface)
