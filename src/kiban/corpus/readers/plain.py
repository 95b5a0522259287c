"""Plain text: one file, one document."""

from collections.abc import Iterator

from kiban.corpus.documents import Document
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.member import Member


def read(member: Member, encoding: str) -> Iterator[Document]:
    yield Document(decode(member.data, encoding), member.name)
