"""One reader, one file. A reader gets a member (a file, or some lines of one) and gives its documents.

It raises `UnicodeDecodeError` where the encoding is not what it should be and `Unreadable` where the member is not of
its format: both end in the ledger, never in replacement characters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kiban.corpus.archives import Readable
from kiban.corpus.documents import Document, Refused
from kiban.corpus.readers import (
    aozora,
    cirrus,
    cut,
    dialogue_json,
    dialogue_tsv,
    docx,
    epub,
    html,
    jsonl,
    knp_org,
    law_xml,
    markdown,
    mediawiki,
    parquet,
    pdf,
    plain,
    po,
    squad_json,
    subtitles,
    warc,
)
from kiban.corpus.readers.encoding import DETECT
from kiban.corpus.readers.member import Extraction, Member


@dataclass(frozen=True)
class Format:
    """`endings` are those of the files that the format reads; `encoding` holds unless the source names another;
    `cut` makes members of a file that may be large; without it a file is one. `needs` is a package that comes with the
    extra `corpus`."""

    read: Callable[[Member, str], Iterator[Document | Refused]]
    endings: tuple[str, ...]
    encoding: str = "utf-8-sig"
    cut: Callable[[str, Readable, Extraction, int], Iterator[Member | Refused | None]] | None = None
    needs: str = ""


FORMATS: dict[str, Format] = {
    "aozora": Format(aozora.read, (".txt",), DETECT),
    "cirrus": Format(cirrus.read, (".json",), cut=cut.lines),
    "demo": Format(jsonl.read, (".jsonl",), cut=cut.lines),
    "dialogue_json": Format(dialogue_json.read, (".json",)),
    "dialogue_tsv": Format(dialogue_tsv.read, (".tsv",)),
    "docx": Format(docx.read, (".docx",)),
    "epub": Format(epub.read, (".epub",)),
    "html": Format(html.read, (".html", ".htm", ".xhtml"), DETECT),
    "jsonl": Format(jsonl.read, (".jsonl", ".ndjson"), cut=cut.lines),
    "knp_org": Format(knp_org.read, (".org", ".knp")),
    "law_xml": Format(law_xml.read, (".xml",)),
    "markdown": Format(markdown.read, (".md", ".mdx", ".markdown"), DETECT),
    "mediawiki": Format(mediawiki.read, (".xml",), cut=cut.mediawiki_pages, needs="mwparserfromhell"),
    "parquet": Format(parquet.read, (".parquet",), cut=parquet.cut),
    "pdf": Format(pdf.read, (".pdf",), needs="pypdfium2"),
    "plain": Format(plain.read, (".txt", ".text"), DETECT),
    "po": Format(po.read, (".po",)),
    "squad_json": Format(squad_json.read, (".json",)),
    "subtitles": Format(subtitles.read, (".srt", ".vtt"), DETECT),
    "warc": Format(warc.read, (".warc", ".wet", ".warc.wet"), DETECT, cut=warc.cut),
}
