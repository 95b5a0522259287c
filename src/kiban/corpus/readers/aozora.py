"""Aozora Bunko text: the work itself, without the marks of the edition.

The notation (https://www.aozora.gr.jp/annotation/): 《》 holds the reading of the characters before it, ｜ says where
those begin, ［＃…］ is a note of the person who typed the text, ※［＃…］ stands for a character that Shift_JIS lacks.
Readings and notes are left out; a missing character becomes Unicode by its U+ number, its place in JIS X 0213 or its
description (`gaiji.tsv`), and 〓 (the printers' mark for a missing type) where none of these is known. ／＼ and
／″＼ are the marks of repetition 〳〵 and 〴〵. Within 〔〕 accents stand behind their letters
(https://www.aozora.gr.jp/accent_separation.html). Width and old forms of characters stay as
they are."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.encoding import decode
from kiban.corpus.readers.member import Member

RULE = re.compile(r"^-{20,}\n", re.MULTILINE)
COLOPHON = re.compile(r"^底本[：:]", re.MULTILINE)
FIRST_PRINTED = re.compile(r"^初出[：:].*?(\d{4})（[^）]*）年(?:(\d{1,2})月)?(?:(\d{1,2})日)?", re.MULTILINE)
PRINTED = re.compile(r"(\d{4})（[^）]*）年(?:(\d{1,2})月)?(?:(\d{1,2})日)?")
MISSING = re.compile(r"※［＃((?:[^［］]|［[^［］]*］)*)］")
UNICODE = re.compile(r"U\+([0-9A-Fa-f]{4,6})")
JIS = re.compile(r"(?<![\d-])([12])-(\d{1,2})-(\d{1,2})(?![\d-])")
BASED_RUBY = re.compile(r"｜([^｜《》\n]*)《[^《》\n]*》")
RUBY = re.compile(r"《[^《》\n]*》")
NOTE = re.compile(r"［＃[^［］]*］")
# A character that a note stands for may be one of the notation itself: it waits in private use until the marks are
# gone.
MARKS = {mark: chr(0xF8E0 + i) for i, mark in enumerate("《》｜［］＃※")}
HIDE, SHOW = str.maketrans(MARKS), str.maketrans({private: mark for mark, private in MARKS.items()})
HIDDEN = re.compile("[" + "".join(MARKS.values()) + "]")
UNKNOWN = "〓"
ACCENTED = re.compile(r"〔([^〔〕\n]{1,2000})〕")
# The letter with the mark behind it; a mark that makes no letter with it stays as it is. After a consonant and before
# a letter ' is an apostrophe (l'amour), and a comma is a cedilla within a word alone.
ACCENT = re.compile(
    r"ae&|AE&|oe&|OE&|s&|[!?]@|[A-Za-z][`^~:&_/]|[AEIOUYaeiouy]'|[A-Za-z]'(?![A-Za-z])|[CcSsTt],(?=[A-Za-z])"
)
LIGATURES = {
    **{"ae&": "æ", "AE&": "Æ", "oe&": "œ", "OE&": "Œ", "s&": "ß", "!@": "¡", "?@": "¿"},
    **{"o/": "ø", "O/": "Ø", "l/": "ł", "L/": "Ł", "d/": "đ", "D/": "Đ", "h/": "ħ", "i/": "ɨ"},
}
COMBINING = dict(zip("`'^~:&_,", "\u0300\u0301\u0302\u0303\u0308\u030a\u0304\u0327", strict=True))
# Where a printed page is meant (12-上-3), the character is only described.
PLACE = re.compile(r"、(?:補助\d+、)?[\d-]+(?:-[上中下左右]-?\d+)?$")
NESTED = 3  # notes hold notes, which hold notes at most


def read(member: Member, encoding: str) -> Iterator[Document]:
    text = decode(member.data, encoding).replace("\r\n", "\n")
    header, blank, rest = text.partition("\n\n")
    names = header.strip("\n").split("\n")
    if not blank or len(names) < 2 or len(names) > 8:
        raise Unreadable("does not begin with title and author and an empty line, as Aozora Bunko's files do")
    rules = list(RULE.finditer(rest))
    if len(rules) >= 2 and not rest[: rules[0].start()].strip():  # the explanation of the marks
        rest = rest[rules[1].end() :]
    colophons = list(COLOPHON.finditer(rest))
    colophon = rest[colophons[-1].start() :] if colophons else ""
    body = rest[: colophons[-1].start()] if colophons else rest
    title, author = clean(names[0]), clean(names[-1])
    yield Document(clean(body).strip("\n"), member.name, title, author, _date(colophon))


def clean(text: str) -> str:
    """`text` without ruby and notes, and with the characters that Shift_JIS lacks."""
    text = MISSING.sub(lambda note: character(note[1]).translate(HIDE), text)
    text = ACCENTED.sub(_accented, text).replace("／″＼", "〴〵").replace("／＼", "〳〵")
    text = RUBY.sub("", BASED_RUBY.sub(r"\1", text)).replace("｜", "")
    for _ in range(NESTED):
        text = NOTE.sub("", text)
    return text.translate(SHOW) if HIDDEN.search(text) else text


def character(note: str) -> str:
    """The character that a note such as 「勹＜夕」、第3水準1-14-76 stands for; 〓 if it only describes it."""
    if unicode := UNICODE.search(note):
        number = int(unicode[1], 16)
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else UNKNOWN
    if jis := JIS.search(note.rpartition("、")[2]):
        plane, row, cell = (int(part) for part in jis.groups())
        if 1 <= row <= 94 and 1 <= cell <= 94:
            code = bytes([0x8F] * (plane == 2) + [0xA0 + row, 0xA0 + cell])
            try:
                return code.decode("euc_jis_2004")
            except UnicodeDecodeError:
                return UNKNOWN
    return described().get(PLACE.sub("", note).strip("「」"), UNKNOWN)


@cache
def described() -> dict[str, str]:
    """Characters by their description in notes, as others have given code and description together."""
    lines = Path(__file__).with_name("gaiji.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def _accented(found: re.Match[str]) -> str:
    """The text within 〔〕 with its accents; with the brackets if there is none in it, since these are the author's."""
    text = ACCENT.sub(_letter, found[1])
    return text if text != found[1] else found[0]


def _letter(found: re.Match[str]) -> str:
    if found[0] in LIGATURES:
        return LIGATURES[found[0]]
    composed = unicodedata.normalize("NFC", found[0][0] + COMBINING.get(found[0][1:], " "))
    return composed if len(composed) == 1 else found[0]


def _date(colophon: str) -> str:
    """When the work was first printed if the colophon says so, otherwise when the edition was: as far as it is
    known."""
    found = FIRST_PRINTED.search(colophon) or PRINTED.search(colophon)
    if not found:
        return ""
    return "-".join(part if len(part) == 4 else f"{int(part):02}" for part in found.groups() if part)
