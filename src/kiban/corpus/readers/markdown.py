"""Markdown and MDX: the prose, with headings, lists, tables and emphasis as they are written.

Left out: front matter (its title is kept as metadata), comments (they often hold the English original), anchors,
includes, tags that stand alone, padding of tables, the addresses of links and images, and code blocks: samples often
come under another licence than the prose (Dynamics 365: MIT beside CC BY), and their language is not the one this
corpus is for. Inline code stays, since sentences need it."""

import html
import re
from collections.abc import Iterator

from kiban.corpus.documents import Document
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.member import Member

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)---[ \t]*(?:\n|\Z)", re.DOTALL)
TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
AUTHOR = re.compile(r"^author:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
DATE = re.compile(r"^(?:ms\.)?date:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
FIRST_HEADING = re.compile(r"^#{1,2}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
FENCE = re.compile(r"^[ \t]*(?:>[ \t]*)*(`{3,}|~{3,})")
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|\{/\*[^*]{0,300}\*/\}", re.DOTALL)
# Lengths are bounded so that hostile text costs linear time.
INCLUDE = re.compile(r"\[!include\s{0,9}\[[^\]\n]{0,200}\]\([^)\n]{0,500}\)\]|\{\{#\w+[^}\n]{0,500}\}\}", re.IGNORECASE)
ALERT = re.compile(r"^([ \t]*>[ \t]*)\[!\w+\][ \t]*$", re.MULTILINE)
CONTAINER = re.compile(r"^[ \t]*:::.*$", re.MULTILINE)
ANCHOR = re.compile(r"""<a\s+(?:name|id)=["'][^"'\n]{0,300}["']\s*/?>(?:\s*</a>)?""", re.IGNORECASE)
HEADING_ID = re.compile(r"[ \t]*\{#[^}\n]{0,300}\}[ \t]*$", re.MULTILINE)
IMAGE = re.compile(r"!\[([^\]\n]{0,500})\]\([^)\s]{0,1000}(?:\s+\"[^\"\n]{0,300}\")?\)")
LINK = re.compile(
    r"\[((?:[^\[\]\n]|\[[^\[\]\n]{0,200}\]){0,500})\]"
    r"\((?:[^()\s]|\([^()\n]{0,200}\)){0,1000}(?:\s+[\"'][^\"'\n]{0,300}[\"'])?\)"
)
REFERENCE_LINK = re.compile(r"(?<![\w\]`])\[([^\[\]\n]{1,300})\]\[[^\[\]\n]{0,200}\]")
REFERENCE = re.compile(r"^[ \t]*\[[^\]\n]+\]:[ \t]+\S+.*$", re.MULTILINE)
READING = re.compile(r"<(rt|rp)>[^<\n]{0,100}</\1>", re.IGNORECASE)
TAG_LINE = re.compile(r"^[ \t]*(?:</?[A-Za-z][^>\n]*>[ \t]*)+$", re.MULTILINE)
TAG = re.compile(
    r"</?(?:a|div|span|br|p|img|sub|sup|kbd|b|i|em|strong|h[1-6]|td|tr|th|table|ruby)\b[^>\n]{0,1000}>", re.IGNORECASE
)
TABLE_ROW = re.compile(r"^[ \t]*\|.*$", re.MULTILINE)
PADDING = re.compile(r"[ \t]{2,}|(?<=---)-+")
IMPORT = re.compile(r"^(?:import|export)\s.+$", re.MULTILINE)
# What goes altogether, and what it cannot be without: to look for that is cheaper than to try the pattern.
LEFT_OUT = (
    (INCLUDE, ""),
    (CONTAINER, ":::"),
    (ANCHOR, "<"),
    (HEADING_ID, "{#"),
    (REFERENCE, "]:"),
    (READING, "<"),
    (TAG_LINE, "<"),
    (TAG, "<"),
    (IMPORT, "port"),
)


def read(member: Member, encoding: str) -> Iterator[Document]:
    text = decode(member.data, encoding).replace("\r\n", "\n")
    title = author = date = ""
    front = FRONT_MATTER.match(text)
    if front:
        text = text[front.end() :]
        title, author, date = (_value(pattern, front[1]) for pattern in (TITLE, AUTHOR, DATE))
    text = _without_code(COMMENT.sub("", text))
    for pattern, needed in LEFT_OUT:
        if needed in text:
            text = pattern.sub("", text)
    if "[!" in text:
        text = ALERT.sub(r"\1", text)
    if "|" in text:
        text = TABLE_ROW.sub(lambda row: PADDING.sub(_one_space, row[0]), text)
    for pattern, needed in ((IMAGE, "]("), (LINK, "]("), (REFERENCE_LINK, "][")):
        if needed in text:
            text = pattern.sub(r"\1", text)
    if not title and (heading := FIRST_HEADING.search(text)):
        title = heading[1]
    yield Document(html.unescape(text), member.name, html.unescape(title), author, _iso(date))


def _one_space(padding: re.Match[str]) -> str:
    return "" if padding[0][0] == "-" else " "


def _value(pattern: re.Pattern[str], front: str) -> str:
    found = pattern.search(front)
    return found[1].strip("\"'") if found else ""


def _iso(date: str) -> str:
    """A date of the form 06/20/2017 as 2017-06-20; others stay as they are."""
    american = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4})", date)
    return f"{american[3]}-{int(american[1]):02}-{int(american[2]):02}" if american else date


def _without_code(text: str) -> str:
    kept: list[str] = []
    fence = ""
    for line in text.split("\n"):
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line[found.end() :].strip():
                fence = ""
        elif found:
            fence = found[1]
        else:
            kept.append(line)
    return "\n".join(kept)
