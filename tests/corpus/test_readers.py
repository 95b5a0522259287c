"""Each reader on a small file of its own, and on real documents where KIBAN_DATA is set."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiban.corpus.documents import Document, Refused, Unreadable
from kiban.corpus.readers import FORMATS
from kiban.corpus.readers.aozora import character, clean
from kiban.corpus.readers.member import Member
from kiban.corpus.sources import FormatName


def read(format: str, content: str | bytes, encoding: str | None = None) -> list[Document | Refused]:
    expected = encoding or FORMATS[format].encoding
    data = content if isinstance(content, bytes) else content.encode("utf-8" if expected == "detect" else expected)
    return list(FORMATS[format].read(Member("file", data), expected))


def only(format: str, content: str | bytes, encoding: str | None = None) -> Document:
    (document,) = read(format, content, encoding)
    assert isinstance(document, Document)
    return document


def test_the_settings_know_the_formats_that_there_are() -> None:
    assert set(get_args(FormatName)) == set(FORMATS)


AOZORA = """\
題名
副題
作者名

-------------------------------------------------------
【テキスト中に現れる記号について】

《》：ルビ
（例）切支丹《きりしたん》
-------------------------------------------------------

［＃３字下げ］一［＃「一」は中見出し］

　第１章、候段｜屹度《きつと》承知｜仕《つかまつ》り、※［＃「勹＜夕」、第3水準1-14-76］々《そうそう》に※［＃「さんずい＋（壥－土へん－厂）」、第3水準1-87-25］。
　※［＃「木＋世」、U+67BB、126-10］と※［＃「魚＋昜」、146-下-16］と※［＃始め二重山括弧、1-1-52］括弧※［＃終わり二重山括弧、1-1-53］。
　くるす［＃「くるす」に傍線］を［＃割り注］注［＃割り注終わり］ながめ、※［＃「※［＃「弓＋椁のつくり」、第3水準1-84-22］」に傍点］た。

底本：「全集」架空社
　　　1968（昭和43）年8月25日初版第1刷発行
初出：「架空」
　　　1918（大正7）年
入力：某
"""  # noqa: E501


def test_aozora() -> None:
    document = only("aozora", AOZORA.replace("\n", "\r\n"))
    assert (document.title, document.author, document.date) == ("題名", "作者名", "1968-08-25")
    lines = document.text.split("\n")
    assert lines[0] == "一"
    assert lines[2] == "　第１章、候段屹度承知仕り、匇々に濹。"
    assert lines[3] == "　枻と〓と《括弧》。"
    assert lines[4].startswith("　くるすを注ながめ、")
    assert not re.search(r"[｜［］＃※]|底本|ルビ", document.text)


def test_aozora_first_printed() -> None:
    body = AOZORA.replace("初出：「架空」\n　　　1918（大正7）年", "初出：「架空」1918（大正7）年3月")
    assert only("aozora", body).date == "1918-03"


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("「勹＜夕」、第3水準1-14-76", "匇"),
        ("「言＋墟のつくり」、第4水準2-88-74", "譃"),
        ("二の字点、1-2-22", "〻"),
        ("感嘆符二つ、1-8-75", "‼"),
        ("「口＋世」、U+546D、164-7", "呭"),
        ("「魚＋昜」、146-下-16", "〓"),
        ("小書き平仮名ん、87-16", "〓"),
        ("小書き片仮名ヲ、739-11", "𛅦"),
        ("「魚＋昜」、498-上-21", "〓"),
        ("ます記号、12-3", "〼"),
        ("感嘆符三つ、43-8", "!!!"),
        ("無い区点、第3水準1-99-99", "〓"),
        ("代用対、U+D800", "〓"),
    ],
)
def test_aozora_characters_that_shift_jis_lacks(note: str, expected: str) -> None:
    assert character(note) == expected


def test_aozora_without_a_header_is_malformed() -> None:
    with pytest.raises(Unreadable):
        read("aozora", "ただの文章。")


def test_aozora_accents_and_repetition() -> None:
    assert clean("〔cafe'〕と〔ママ〕、〔E'tude d'un oe&uvre〕") == "caféと〔ママ〕、Étude d'un œuvre"
    assert clean("〔byo_-soku, franc,ais, nai:f, go/d〕") == "byō-soku, français, naïf, gød"
    assert clean("いろ／＼に、しみ／″＼と") == "いろ〳〵に、しみ〴〵と"


MARKDOWN = """\
---
title: "見出しの題"
author: hito
ms.date: 06/20/2017
---
# <a name="top"></a>見出し {#id}

<!--
English original.
-->

[!include [banner](../banner.md)]
> [!NOTE]
> 注意する。**強調**と`コード`。[文字](https://example.jp/a_(b) "題")、![絵](a.png)、[`参`][参照]、`a[1][2]`。

<div class="x">
```js
const dropped = 1
```
</div>

~~~~
```
まだコード
~~~~
::: tip
読みは<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>字、a &lt; b。
:::

| 列   | 値      |
|------|:-------:|
| 一   | `1`     |

[参照]: https://example.jp/
最後{/*note*/}
"""


def test_markdown() -> None:
    document = only("markdown", MARKDOWN)  # with a byte-order mark, since the encoding is utf-8-sig
    assert (document.title, document.author, document.date) == ("見出しの題", "hito", "2017-06-20")
    lines = [line for line in document.text.split("\n") if line.strip()]
    assert lines == [
        "# 見出し",
        "> ",
        "> 注意する。**強調**と`コード`。文字、絵、`参`、`a[1][2]`。",
        "読みは漢字、a < b。",
        "| 列 | 値 |",
        "|---|:---:|",
        "| 一 | `1` |",
        "最後",
    ]


def test_markdown_without_front_matter_takes_the_first_heading() -> None:
    assert only("markdown", "<!-- ## Title -->\n\n## 題\n\n本文。").title == "題"


HTML = """\
<HTML><HEAD><META http-equiv="Content-Type" content="text/html; charset=shift_jis"><TITLE>法律</TITLE>
<STYLE><!-- BODY {} --></STYLE></HEAD><BODY><B>法律<BR>（平成元年①）</B>
<P><DIV class="item"><B><A NAME="1">第一条</A>
</B>
　この<A HREF="/x">法律</A>
（以下「法」という。）は、
公布の日から施行する。</DIV><TABLE><TR><TD>甲 </TD><TD>乙</TD></TR></TABLE></BODY></HTML>
"""


def test_html_in_cp932() -> None:
    document = only("html", HTML.encode("cp932"))
    assert document.title == "法律"
    lines = [line for line in document.text.split("\n") if line]
    assert lines == [
        "法律",
        "（平成元年①）",
        "第一条　この法律（以下「法」という。）は、公布の日から施行する。",
        "甲　乙",
    ]


def test_html_that_is_not_what_it_declares() -> None:
    for charset in ("utf-8", "klingon", "iso-2022-jp"):  # the bytes are CP932 whatever the page says
        assert only("html", HTML.replace("shift_jis", charset).encode("cp932")).title == "法律"
    with pytest.raises(UnicodeDecodeError):
        read("html", HTML.encode("cp932").replace("施行".encode("cp932"), b"\x81\xff\xff"))


LAW = """\
<?xml version="1.0" encoding="UTF-8"?>
<Law EnforcementDate="2023/03/20"><LawNum>令和四年政令第一号</LawNum><LawBody><LawTitle Kana="x">見本令</LawTitle>
<TOC><TOCLabel>目次</TOCLabel></TOC>
<MainProvision><Chapter Num="1"><ChapterTitle>第一章　総則</ChapterTitle><Article Num="1">
<ArticleCaption>（趣旨）</ArticleCaption><ArticleTitle>第一条</ArticleTitle>
<Paragraph Num="1"><ParagraphNum/><ParagraphSentence>
  <Sentence Num="1">この<Ruby>政<Rt>せい</Rt></Ruby>令は、</Sentence><Sentence Num="2">次による。</Sentence>
</ParagraphSentence><Item Num="1"><ItemTitle>一</ItemTitle><ItemSentence>
  <Column Num="1"><Sentence>甲</Sentence></Column><Column Num="2"><Sentence>乙</Sentence></Column>
</ItemSentence></Item></Paragraph>
<Paragraph Num="2"><ParagraphNum>２</ParagraphNum>
<ParagraphSentence><Sentence>略。</Sentence></ParagraphSentence></Paragraph>
</Article></Chapter></MainProvision></LawBody></Law>
"""


def test_law_xml() -> None:
    document = only("law_xml", LAW)
    assert (document.title, document.date) == ("見本令", "2023-03-20")
    assert document.text.split("\n") == [
        "令和四年政令第一号",
        "見本令",
        "第一章　総則",
        "（趣旨）",
        "第一条　この政令は、次による。",
        "一　甲　乙",
        "２　略。",
    ]


@pytest.mark.parametrize("text", ["<Law>", "<html/>", '<!DOCTYPE a [<!ENTITY b "c">]><Law>&b;</Law>', ""])
def test_what_is_no_law_is_malformed(text: str) -> None:
    with pytest.raises(Unreadable):
        read("law_xml", text)


PO = r"""
msgid ""
msgstr "Language: ja\n"

#: a.rst:1
msgid "One"
msgstr "一つ\n"
"「\"二行\"」"

#, fuzzy, c-format
msgid "Two"
msgstr "怪しい訳"

msgid "Three"
msgstr ""

msgctxt "menu"
msgid "file"
msgid_plural "files"
msgstr[0] "ファイル"

msgid "None"
msgstr "None"
#~ msgid "Old"
#~ msgstr "古い"
"""


def test_po() -> None:
    assert only("po", PO).text == '一つ\n「"二行"」\n\nファイル'
    with pytest.raises(Unreadable):
        read("po", "ただの文章。")


def test_dialogues_as_json_and_as_tsv_are_told_alike() -> None:
    turns = [("operator_1", "こんにちは。\nご用件は?"), ("customer_2", "宿を探しています。")]
    told = "オペレーター：こんにちは。\nご用件は?\nお客様：宿を探しています。"
    as_json = json.dumps({"utterances": [{"name": name, "text": text} for name, text in turns]})
    assert only("dialogue_json", as_json).text == told
    assert only("dialogue_tsv", "operator_1\tこんにちは。▁│ご用件は?\ncustomer_2\t宿を探しています。\n").text == told


def test_speakers_become_letters() -> None:
    turns = [("CP", "<EA>さん、どうも。"), ("EA", "<XX>さんによろしく。"), ("CP", "はい。")]
    utterances = [{"interlocutor_id": n, "text": t, "timestamp": "2022-08-17T08:08:55.695000"} for n, t in turns]
    document = only("dialogue_json", json.dumps({"utterances": utterances}))
    assert document.text == "A：Bさん、どうも。\nB：<XX>さんによろしく。\nA：はい。"
    assert document.date == "2022-08-17"


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '{"utterances": [{"text": "x"}]}', "[" * 100_000, "これは JSON ではない"]
)
def test_what_is_no_dialogue_is_malformed(text: str) -> None:
    with pytest.raises(Unreadable):
        read("dialogue_json", text)


def test_squad_json() -> None:
    article = {
        "title": "題",
        "paragraphs": [{"context": "一段目。", "qas": [{"question": "問?"}]}, {"context": "二段目。"}],
    }
    documents = read("squad_json", json.dumps({"data": [article, article]}))
    assert [(d.text, d.uri) for d in documents if isinstance(d, Document)] == [
        ("一段目。\n\n二段目。", "file#1"),
        ("一段目。\n\n二段目。", "file#2"),
    ]


def test_knp_puts_parentheses_back() -> None:
    text = (
        "# S-ID:w-00-01 括弧削除 KNP:5\nコロンビア特別区、通称ワシントンD.C.は、首都。\n"
        "# S-ID:w-00-02 括弧始:（ 括弧終:） 括弧位置:8 KNP:5\nコロンビアとくべつく\n"
        "# S-ID:w-00-03 括弧始:（ 括弧終:） 括弧位置:32 KNP:5\nディーシー\n# S-ID:w-01\n二文目。\n"
    )
    expected = "コロンビア特別区（コロンビアとくべつく）、通称ワシントンD.C.（ディーシー）は、首都。二文目。"
    assert only("knp_org", text).text == expected


def test_jsonl() -> None:
    lines = [
        b'{"text": "\xe4\xb8\x80", "title": "t", "url": "https://example.jp/1", "register": "news"}',
        b"",
        b'{"txt": "x"}',
        b"not json",
        '{"text": "シフト"}'.encode("cp932"),
        b'{"text": "\xe4\xba\x8c"}',
    ]
    found = read("jsonl", b"\n".join(lines))
    assert found[0] == Document("一", "https://example.jp/1", "t", register="news")
    assert [(r.uri, r.reason) for r in found if isinstance(r, Refused)] == [
        ("file#3", "malformed"),
        ("file#4", "malformed"),
        ("file#5", "undecodable"),
    ]
    assert found[-1] == Document("二", "file#6")


TEXT = ["aozora", "dialogue_json", "dialogue_tsv", "knp_org", "law_xml", "markdown", "plain", "po", "squad_json"]


@pytest.mark.parametrize("format", [*TEXT, "subtitles"])
def test_a_wrong_encoding_is_an_error_and_never_replaced(format: str) -> None:
    data = "縦書きの文章、である。".encode("cp932")
    with pytest.raises(UnicodeDecodeError):
        read(format, data, "utf-8")


PIECES = st.sampled_from(
    [
        "<",
        ">",
        "</",
        "<!--",
        "-->",
        "{/*",
        "[",
        "]",
        "![",
        "](",
        "《",
        "》",
        "｜",
        "［＃",
        "］",
        "※［＃",
        "```",
        "---",
        "|",
    ]
    + ['msgid "', 'msgstr "', '"', "\\", "# S-ID:", "{", "}", '"text":', '"utterances":', "<Law>", "&", "#, fuzzy"]
    + ["\n", "\n\n", "\t", "\0", "あ", "漢", "1-2-3", "U+FFFF", "：", "底本："]
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(PIECES, max_size=40))
def test_hostile_text_never_crashes_a_reader(format: str, parts: list[str]) -> None:
    try:
        read(format, "".join(parts))
    except (Unreadable, UnicodeDecodeError):
        pass


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.binary(max_size=200))
def test_any_bytes_never_crash_a_reader(format: str, data: bytes) -> None:
    try:
        read(format, data)
    except (Unreadable, UnicodeDecodeError):
        pass


@pytest.mark.parametrize(
    "part",
    ["[", "![", "[a](", "<!--", "{/*", "{#", "<a ", "<a/>", "> ", "｜", "《", "［＃", "※［＃", "｜あ", "[[a]", "|-"],
)
@pytest.mark.parametrize("format", ["markdown", "aozora"])
def test_hostile_repetition_costs_linear_time(format: str, part: str) -> None:
    read(format, "題\n人\n\n" + part * 30_000 + " x")  # quadratic time would be minutes


REAL = {
    "aozora": ("aozora", 24, r"[｜《》］＃]|底本：|[\u3000 ]$"),
    "d365-md": ("markdown", 18, r"<!--|^```|\[!|\]\(|^---\ntitle"),
    "react-md": ("markdown", 5, r"<!--|^```|\{/\*"),
    "vue-md": ("markdown", 4, r"<!--|^```|\{#"),
    "rust-md": ("markdown", 4, r"<!--|-->|^```|<rt>"),
    "python-po": ("po", 6, r"msgstr|Project-Id-Version"),
    "law-html": ("html", 10, r"<[A-Z]+|&nbsp;"),
    "law-xml": ("law_xml", 2, r"<[A-Z]+|目次"),
    "wikipedia-org": ("knp_org", 15, r"S-ID|^#"),
    "realpersonachat-json": ("dialogue_json", 8, r"interlocutor|utterance"),
    "asdc-tsv": ("dialogue_tsv", 6, r"[│▁\t]|operator_|customer_"),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_documents(kiban_data: Path, folder: str) -> None:
    format, count, unwanted = REAL[folder]
    found = []
    for path in sorted((kiban_data / "smoke" / folder).iterdir()):
        found += list(FORMATS[format].read(Member(path.name, path.read_bytes()), FORMATS[format].encoding))
    assert len(found) == count
    for document in found:
        assert isinstance(document, Document)
        assert re.search(r"[ぁ-んァ-ヶ]", document.text)
        assert not re.search(unwanted, document.text, re.MULTILINE), document.uri
    if format in ("aozora", "html", "law_xml"):
        assert all(document.title for document in found)
    if format == "aozora":
        assert all(document.author and re.fullmatch(r"\d{4}(-\d\d)*", document.date) for document in found)
