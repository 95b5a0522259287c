"""The formats whose files come from other programs, each from a file that is made here, through the pieces of a source
to documents; and what hostile ones leave in the ledger."""

import bz2
import io
import json
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiban.artifacts.errors import KibanError
from kiban.corpus import pieces, sources
from kiban.corpus.curate import _documents
from kiban.corpus.documents import Document, Refused, Unreadable
from kiban.corpus.readers import FORMATS
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.isolated import Worker, worker
from kiban.corpus.readers.member import Extraction, Member
from tests.corpus.building import build, kept, ledger, sentences, source_of

PROSE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"


def all_of(path: Path, format: str, **extraction: Any) -> list[Document | Refused]:
    """What a source gives, in order: documents, and what would be in the ledger."""
    found: list[Document | Refused] = []
    for piece in pieces.pieces("s", format, path, 0, 0, Extraction(**extraction)):
        found += piece.refused
        for member in piece.members:
            found += _documents(SimpleNamespace(format=format, encoding=FORMATS[format].encoding), member)
    assert "reader_failed" not in reasons(found)
    return found


def texts(found: list[Document | Refused]) -> list[str]:
    return [item.text for item in found if isinstance(item, Document)]


def reasons(found: list[Document | Refused]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Refused)]


def record(uri: str, body: bytes, kind: str = "text/html; charset=shift_jis", status: int = 200) -> bytes:
    answer = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    )
    return head.encode() + answer + b"\r\n\r\n"


PAGE = (
    f"<html><head><title>猫</title></head><body><nav><a href='/'>案内</a></nav><article><p>{PROSE * 3}</p>"
    f"<p>{PROSE * 3}</p></article><footer>著作権表示</footer></body></html>"
)
WARC = (
    record("https://example.jp/1", PAGE.encode("cp932"))
    + record("https://example.jp/x.png", b"\x89PNG", "image/png")
    + record("https://example.jp/gone", PAGE.encode("cp932"), status=404)
    + record("https://example.jp/2", PAGE.encode("euc_jp"), "text/html")
    + record("https://example.jp/3", b"<p>\xff\xfe\xfd", "text/html; charset=utf-8")
)


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_warc(tmp_path: Path, extractor: str) -> None:
    import gzip

    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(WARC[i : i + 500]) for i in range(0, len(WARC), 500)))
    found = all_of(path, "warc", extractor=extractor)
    documents = [item for item in found if isinstance(item, Document)]
    assert [item.uri for item in documents] == ["https://example.jp/1", "https://example.jp/2"]
    for item in documents:
        assert PROSE in item.text and "案内" not in item.text and (item.title, item.date) == ("猫", "2024-01-02")
    assert [item.uri for item in found if isinstance(item, Refused)] == ["https://example.jp/3"]
    assert sum(piece.others for piece in pieces.pieces("s", "warc", path, 0, 0)) == 2


@pytest.mark.parametrize("cut", [10, 300, 700, len(WARC) - 30, len(WARC) - 2])
def test_a_warc_that_is_cut_short_says_so(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.warc").write_bytes(WARC[:cut])
    found = [r for piece in pieces.pieces("s", "warc", tmp_path / "a.warc", 0, 0) for r in piece.refused]
    assert found and found[-1].reason == "damaged"


def test_a_worker_that_hangs_is_killed_and_another_goes_on() -> None:
    own = Worker("resiliparse")
    hostile = ("<div>" * 200_000).encode()
    start = time.monotonic()
    with pytest.raises(Unreadable, match="took more than 1 s"):
        own.ask(hostile, 1.0)
    assert time.monotonic() - start < 30  # its start included
    assert PROSE in own.ask(PAGE.encode(), 10.0)["text"]
    own.kill()


def test_a_worker_that_is_killed_from_outside_costs_one_document() -> None:
    own = Worker("resiliparse")
    own.ask(PAGE.encode(), 10.0)
    assert own._process is not None
    own._process.kill()
    own._process.wait()
    assert PROSE in own.ask(PAGE.encode(), 10.0)["text"]
    own.kill()


def wiki(*pages: tuple[str, str, str]) -> bytes:
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns><revision><timestamp>2024-05-06T00:00:00Z</timestamp>"
        f"<text>{text}</text></revision></page>\n"
        for title, ns, text in pages
    )
    site = "<siteinfo><base>https://ja.wikipedia.org/wiki/Main</base></siteinfo>"
    return f"<mediawiki>{site}\n{body}</mediawiki>\n".encode()


MARKUP = (
    "{{Infobox|a={{b}}}}'''猫'''（ねこ）は[[ネコ科|動物]]である&lt;ref&gt;注&lt;/ref&gt;。[[File:x.jpg|thumb|絵の[[題]]]]\n"
    "== 歴史 ==\n{| class=x\n| 表\n|}\n古い。[[Category:猫]]\n"
)


def test_wikipedia_dump(tmp_path: Path) -> None:
    data = wiki(("猫", "0", MARKUP), ("ノート:猫", "1", "話"), ("壊", "0", "<x>"), ("犬", "0", "犬。"))
    (tmp_path / "jawiki.xml.bz2").write_bytes(bz2.compress(data[:300]) + bz2.compress(data[300:]))
    found = all_of(tmp_path / "jawiki.xml.bz2", "mediawiki")
    first = found[0]
    assert isinstance(first, Document)
    assert first.text.split() == ["猫（ねこ）は動物である。", "歴史", "古い。"]
    assert (first.title, first.date) == ("猫", "2024-05-06")
    assert first.uri == "https://ja.wikipedia.org/wiki/%E7%8C%AB"
    assert texts(found)[1] == "犬。" and len(texts(found)) == 3 - len(reasons(found))
    (tmp_path / "cut.xml").write_bytes(data[:-60])
    assert "damaged" in reasons(all_of(tmp_path / "cut.xml", "mediawiki"))


def test_cirrus(tmp_path: Path) -> None:
    one = {"title": "猫", "text": PROSE, "namespace": 0, "wiki": "jawiki", "language": "ja", "timestamp": "2024-01-02T"}
    rows = [{"index": {"_id": "1"}}, one, {"index": {"_id": "2"}}, {**one, "namespace": 1}, {"title": "x"}]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)))
    found = all_of(tmp_path / "a.json", "cirrus")
    assert found[0] == Document(PROSE, "https://ja.wikipedia.org/wiki/%E7%8C%AB", "猫", date="2024-01-02")
    assert reasons(found) == ["malformed"] and len(found) == 2


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {"body": [f"{i}{PROSE}" for i in range(600)] + [None], "url": [f"https://a/{i}" for i in range(601)]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = all_of(tmp_path / "a.parquet", "parquet", columns=(("text", "body"),))
    assert texts(found) == table["body"].to_pylist()[:600] and reasons(found) == ["malformed"]
    assert isinstance(found[-2], Document) and found[-2].uri == "https://a/599"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "a.parquet")
    assert len(texts(all_of(tmp_path / "a.zip", "parquet", columns=(("text", "body"),)))) == 600
    assert reasons(all_of(tmp_path / "a.parquet", "parquet")) == ["malformed"]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    assert reasons(all_of(tmp_path / "b.parquet", "parquet")) == ["damaged"]


def pdf(text: str) -> bytes:
    """A PDF of one line, its font not in it but its characters' codes told."""
    codes = "".join(f"<{ord(c):04X}> <{ord(c):04X}>\n" for c in sorted(set(text)))
    cmap = (
        "begincmap\n1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n"
        f"{len(set(text))} beginbfchar\n{codes}endbfchar\nendcmap"
    )
    shown = f"BT /F 12 Tf 50 700 Td <{text.encode('utf-16-be').hex()}> Tj ET"
    streams = [f"<< /Length {len(s)} >>\nstream\n{s}\nendstream" for s in (shown, cmap)]
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 6 0 R /Resources << /Font << /F 4 0 R >> >> >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /G /Encoding /Identity-H "
        "/DescendantFonts [5 0 R] /ToUnicode 7 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /G /DW 1000 "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        *streams,
        "<< /Author (Hito) /CreationDate (D:20240102030405) >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        out
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R /Info 8 0 R >>\n"
            f"startxref\n{len(out)}\n%%EOF\n"
        ).encode()
    )


def test_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("吾輩は猫である。"))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 nothing")
    (tmp_path / "c.pdf").write_bytes(pdf(" "))
    found = all_of(tmp_path, "pdf")
    assert found[0] == Document("吾輩は猫である。", "a.pdf", "", "Hito", "2024-01-02")
    assert [item.uri for item in found if isinstance(item, Refused)] == ["b.pdf", "c.pdf"]
    assert "OCR" in found[2].detail  # type: ignore[union-attr]


def packed(parts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RUN = "<w:r><w:t>{}</w:t></w:r>"
DOCX = {
    "word/document.xml": f"<w:document {W}><w:body><w:p>{RUN.format('題')}</w:p><w:p><w:r><w:ruby><w:rt>{RUN.format('ねこ')}"  # noqa: E501
    f"</w:rt><w:rubyBase>{RUN.format('猫')}</w:rubyBase></w:ruby></w:r><w:del><w:r><w:delText>消</w:delText></w:r></w:del>"
    f"<w:ins>{RUN.format('である')}</w:ins></w:p><w:tbl><w:tr><w:tc><w:p>{RUN.format('甲')}</w:p></w:tc><w:tc><w:p>"
    f"{RUN.format('乙')}</w:p></w:tc></w:tr></w:tbl></w:body></w:document>",
    "docProps/core.xml": '<c:p xmlns:c="x" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>報告</dc:title>'
    "<dc:creator>某</dc:creator></c:p>",
}
EPUB = {
    "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="O/p.opf"/></rootfiles></container>',
    "O/p.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    "<dc:title>本</dc:title><dc:creator>人</dc:creator><dc:date>2020-01-01</dc:date></metadata><manifest>"
    '<item id="b" href="b.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/>'
    '<itemref idref="b"/></spine></package>',
    "O/a.xhtml": "<html><body><h1>一</h1><p><ruby>猫<rt>ねこ</rt></ruby>。</p></body></html>",
    "O/b.xhtml": "<html><body><p>二章。</p></body></html>",
}


def test_docx_and_epub(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(packed(DOCX))
    (tmp_path / "a.epub").write_bytes(packed(EPUB))
    assert all_of(tmp_path / "a.docx", "docx") == [Document("題\n猫である\n甲　乙", "a.docx", "報告", "某")]
    (book,) = all_of(tmp_path / "a.epub", "epub")
    assert isinstance(book, Document) and book.text.split() == ["一", "猫。", "二章。"]
    assert (book.title, book.author, book.date) == ("本", "人", "2020-01-01")


def test_entities_and_bombs_within_documents_are_refused(tmp_path: Path) -> None:
    laughs = '<!DOCTYPE a [<!ENTITY b "ははは">]>' + DOCX["word/document.xml"]
    (tmp_path / "a.docx").write_bytes(packed({"word/document.xml": laughs}))
    (tmp_path / "b.docx").write_bytes(packed({"word/document.xml": " " * (300 << 20)}))
    (tmp_path / "c.docx").write_bytes(packed(DOCX)[:-100])
    assert reasons(all_of(tmp_path, "docx")) == ["malformed"] * 3


SRT = "1\n00:00:01,000 --> 00:00:02,000\n<i>猫</i>である。\n\n2\n00:00:03,000 --> 00:00:04,000\n猫である。\n名前は無い。\n"  # noqa: E501
VTT = "WEBVTT\n\nNOTE 覚え\n\n00:01.000 --> 00:02.000 align:start\n<v 某>猫&amp;犬\n"


def test_subtitles(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(SRT.encode("cp932"))
    (tmp_path / "b.vtt").write_text(VTT)
    (tmp_path / "c.srt").write_text("字幕ではない。")
    found = all_of(tmp_path, "subtitles")
    assert texts(found) == ["猫である。\n名前は無い。", "某：猫&犬"] and reasons(found) == ["malformed"]


def test_analysed_knp(tmp_path: Path) -> None:
    text = "# S-ID:1\n* 1D\n+ 1D\n猫 ねこ 猫 名詞 6 普通名詞 1 * 0 * 0\nは は は 助詞 9 副助詞 2 * 0 * 0\n+ -1D\n無い ない 無い 形容詞 3 * 0 イ形容詞アウオ段 18 基本形 2\nEOS\n"  # noqa: E501
    (tmp_path / "a.knp").write_text(text)
    assert texts(all_of(tmp_path / "a.knp", "knp_org")) == ["猫は無い"]


@pytest.mark.parametrize("name", ["utf-8", "utf-8-sig", "utf-16", "cp932", "euc_jp", "iso2022_jp"])
def test_detection_on_real_text(kiban_data: Path, name: str) -> None:
    for path in sorted((kiban_data / "smoke" / "aozora").iterdir()):
        text = path.read_bytes().decode("cp932")
        try:
            data = text.encode(name)
        except UnicodeEncodeError:
            continue
        for part in (data, text[:200].encode(name)):
            assert decode(part, "detect") == part.decode(name)


def test_what_is_in_no_encoding_is_refused() -> None:
    for data in (b"\xff\x81\x00\xfe" * 10, "縦書き".encode("cp932") + b"\xff\xff", b"caf\xe9"):
        with pytest.raises(UnicodeDecodeError):
            decode(data, "detect")


def test_an_absent_library_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("猫"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KibanError, match=r"pypdfium2; install it with `pip install 'kiban\[corpus\]'`"):
        sources._files_of(source_of("s", tmp_path, "pdf"))


SEEDS = {
    "warc": WARC,
    "mediawiki": wiki(("猫", "0", MARKUP), ("犬", "0", "犬。")),
    "docx": packed(DOCX),
    "epub": packed(EPUB),
    "subtitles": (SRT + VTT).encode(),
    "pdf": pdf("吾輩は猫である。"),
    "cirrus": b'{"index":{}}\n{"title":"a","text":"b\\ud800"}\n',
}


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [PROSE] * 50}), sink)
    return sink.getvalue()


SEEDS["parquet"] = _parquet()


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damaged_files_end_as_documents_or_in_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
) -> None:
    """Cut, shuffled and overwritten files: every one gives something, and nothing but what the readers promise."""
    raw = bytearray(SEEDS[format])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
        raw = raw or bytearray(b"\0")
    if data.draw(st.booleans()):
        middle = data.draw(st.integers(0, len(raw)))
        raw = raw[middle:] + raw[:middle]
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    path = tmp_path_factory.mktemp("f") / f"a{FORMATS[format].endings[0]}"
    path.write_bytes(raw)
    assert all_of(path, format, seconds=20.0)


HOSTILE = [
    "\0" * 1000,
    "あ\0い",
    "<div>" * 50_000,
    "[" * 50_000,
    "\n" * 1_000_000,
    "あ\n" * 1_000_000,
    '{"text":"\\ud800"}',
]


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"demo"}))
def test_hostile_content_costs_seconds_and_no_crash(tmp_path: Path, format: str) -> None:
    start = time.monotonic()
    for number, text in enumerate(HOSTILE):
        if number >= len(HOSTILE) - 2 and FORMATS[format].cut:
            text = text[:200_000]  # each line would be a row in the ledger
        (tmp_path / f"{number}{FORMATS[format].endings[0]}").write_text(text)
    all_of(tmp_path, format)
    assert time.monotonic() - start < 60


def test_a_run_goes_on_past_all_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number, text in enumerate(sentences(6)):
        (folder / f"good{number}.txt").write_text(text)
    (folder / "utf16.txt").write_bytes(b"\xff\xfe\x00\xd8\x00")
    (folder / "none.txt").write_bytes(b"\xff\x00\xfe" * 50)
    (folder / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08\x00 nothing")
    (folder / "link.txt").symlink_to(tmp_path)
    with zipfile.ZipFile(folder / "evil.zip", "w") as archive:
        archive.writestr("../../out.txt", "x")
        archive.writestr("in.txt", sentences(1, 90)[0])
    made = build(tmp_path / "store", [source_of("s", folder, "plain")], hold_back=0)
    lost = {row["uri"]: row["reason"] for row in ledger(made)}
    assert lost["utf16.txt"] == lost["none.txt"] == "undecodable"
    assert (lost["cut.tar.gz"], lost["evil.zip/../../out.txt"]) == ("damaged", "unsafe_name")
    assert lost["link.txt"] == "not_a_file" and len(kept(made)) + len(lost) == 12
    assert not list(tmp_path.glob("out.txt"))


def test_a_fault_of_a_reader_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def broken(member: Member, encoding: str) -> Any:
        raise ZeroDivisionError("none of its business")

    monkeypatch.setitem(FORMATS, "plain", replace(FORMATS["plain"], read=broken))
    (row,) = _documents(SimpleNamespace(format="plain", encoding="detect"), Member("a", b"x"))  # type: ignore[arg-type]
    assert isinstance(row, Refused) and row.reason == "reader_failed" and "ZeroDivisionError" in row.detail


def test_workers_end_with_their_process() -> None:
    assert worker("resiliparse") is worker("resiliparse")
    import subprocess

    code = (
        "from kiban.corpus.readers.isolated import worker; w = worker('resiliparse'); w.ask(b'<p>x', 9);"
        "print(w._process.pid, flush=True); import os; os.kill(os.getpid(), 9)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_format_has_its_example_in_the_docs() -> None:
    import re
    import tomllib

    page = (Path(__file__).parents[2] / "docs" / "corpus-sources.md").read_text(encoding="utf-8")
    shown = set()
    for block in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL):
        for table in tomllib.loads(block)["source"]:
            shown.add(sources.SourceSettings.model_validate(table).format)
    assert shown | {"demo"} == set(FORMATS)
    for name, format in FORMATS.items():
        assert name == "demo" or f"| `{name}` | {' '.join(format.endings[:2])}" in page
