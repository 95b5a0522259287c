"""One reader, one file. A reader gets a member (a file, or some lines of one) and gives its documents.

It raises `UnicodeDecodeError` where the encoding is not what it should be and `Unreadable` where the member is not of
its format: both end in the ledger, never in replacement characters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kiban.corpus.documents import Document, Refused
from kiban.corpus.readers import (
    aozora,
    dialogue_json,
    dialogue_tsv,
    html,
    jsonl,
    knp_org,
    law_xml,
    markdown,
    plain,
    po,
    squad_json,
)
from kiban.corpus.readers.member import Member


@dataclass(frozen=True)
class Format:
    """`endings` are those of the files that the format reads; `encoding` holds unless the source names another;
    `by_line` says that a file may be cut at any line end."""

    read: Callable[[Member, str], Iterator[Document | Refused]]
    endings: tuple[str, ...]
    encoding: str = "utf-8-sig"
    by_line: bool = False


FORMATS: dict[str, Format] = {
    "aozora": Format(aozora.read, (".txt",), "cp932"),
    "demo": Format(jsonl.read, (".jsonl",), by_line=True),
    "dialogue_json": Format(dialogue_json.read, (".json",)),
    "dialogue_tsv": Format(dialogue_tsv.read, (".tsv",)),
    "html": Format(html.read, (".html", ".htm"), html.DECLARED),
    "jsonl": Format(jsonl.read, (".jsonl", ".ndjson"), by_line=True),
    "knp_org": Format(knp_org.read, (".org", ".knp")),
    "law_xml": Format(law_xml.read, (".xml",)),
    "markdown": Format(markdown.read, (".md", ".mdx", ".markdown")),
    "plain": Format(plain.read, (".txt", ".text")),
    "po": Format(po.read, (".po",)),
    "squad_json": Format(squad_json.read, (".json",)),
}
