"""Subtitles, SRT and WebVTT: what is said, a line a line, without numbers, times, styles and notes. A line that only
repeats the one before it (captions that roll) stands once."""

import html
import re
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.member import Member

TIME = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->\s*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}")
BESIDE = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")
VOICE = re.compile(r"<v(?:\.[^\s>]{0,100})?\s+([^>\n]{1,100})>")
TAG = re.compile(r"</?[^<>\n]{0,200}>|\{\\[^{}\n]{0,200}\}")


def read(member: Member, encoding: str) -> Iterator[Document]:
    text = decode(member.data, encoding).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines: list[str] = []
    cues, spoken = 0, False
    for line in text.split("\n"):
        if TIME.match(line):
            cues, spoken = cues + 1, True
        elif not line.strip() or BESIDE.match(line):
            spoken = False
        elif spoken:
            said = html.unescape(TAG.sub("", VOICE.sub(r"\1：", line))).strip()
            if said and (not lines or lines[-1] != said):
                lines.append(said)
    if not cues:
        raise Unreadable("has no line with times (00:00:01,000 --> 00:00:02,000)")
    yield Document("\n".join(lines), member.name)
