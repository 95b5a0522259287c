"""Dialogues as TSV, an utterance a line: speaker, tab, text. In the text │ parts sentences and ▁ parts lines (ASDC)."""

from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.dialogue_json import speakers
from kiban.corpus.readers.member import Member


def read(member: Member, encoding: str) -> Iterator[Document]:
    turns = []
    for number, line in enumerate(member.data.decode(encoding).splitlines(), 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise Unreadable(f"line {number} has no tab between speaker and text")
        turns.append((name, text.replace("│", "").replace("▁", "\n")))
    named = speakers([name for name, _ in turns])
    yield Document("\n".join(f"{named[name]}：{text}" for name, text in turns), member.name)
