"""Bytes to text. Nothing is ever replaced: what is not in an encoding is an error, and its document goes to the ledger.

`detect` tries, strictly: a byte-order mark; what the page declares; UTF-8; ISO-2022-JP where there are its escapes; and
CP932 and EUC-JP, between which kana decide: either one takes most text of the other for half-width kana or rare kanji.
Other encodings are used where a page declares them or the source names them, since nearly any bytes are valid in them.
"""

import codecs
import re

DETECT = "detect"
# What pages call Shift_JIS holds the vendors' characters too (① and the like), and that is CP932.
SHIFT_JIS = {"shift_jis", "shift-jis", "x-sjis", "sjis", "windows-31j", "ms_kanji", "cp932"}
UTF_8 = {"utf-8", "utf8"}
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ISO_2022_ESCAPE = re.compile(rb"\x1b(?:\$[@B(]|\([IJ])")
KANA = re.compile("[ぁ-んァ-ヶー、。]")
UNLIKELY = re.compile("[｡-ﾟ\ue000-\uf8ff\x80-\x9f]")
# CP932 has the bytes 80, A0 and FD to FF for no character; Python gives them these.
NO_CP932 = "\x80\xa0\uf8f1\uf8f2\uf8f3"
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
LOOKED_AT = 1_000


def decode(data: bytes, encoding: str, declared: str = "") -> str:
    """`data` as text, in `encoding` or as detected.

    Raises:
        UnicodeDecodeError: if it is not in that encoding, or in none that is tried.
    """
    if encoding != DETECT:
        return data.decode(encoding)
    for mark, name in MARKS:
        if data.startswith(mark):
            return data.decode(name)
    name = "cp932" if declared.lower() in SHIFT_JIS else declared.lower()
    if name and name not in UTF_8 and (text := _try(data, name)) is not None:
        return text
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        first = error
    else:
        iso = _try(data, "iso2022_jp_ext") if ISO_2022_ESCAPE.search(data) else None
        return text if iso is None else iso
    found = [(_likely(text), text) for name in ("cp932", "euc_jp") if (text := _try(data, name)) is not None]
    if not found or max(found)[0] <= 0:
        why = f"{first.reason} at byte {first.start} as UTF-8, and neither CP932, EUC-JP nor ISO-2022-JP"
        raise UnicodeDecodeError("detect", data[first.start : first.start + 1], 0, 1, why)
    return max(found)[1]


def _try(data: bytes, name: str) -> str | None:
    try:
        text = data.decode(name)
        return None if name == "cp932" and any(character in text for character in NO_CP932) else text
    except (LookupError, ValueError):  # not such text, or no such encoding of text
        return None


def _likely(text: str) -> float:
    """How much like Japanese: kana and 、。 less half-width kana and private use, over all but ASCII."""
    looked_at = text[:LOOKED_AT]
    foreign = len(NOT_ASCII.findall(looked_at))
    return (len(KANA.findall(looked_at)) - len(UNLIKELY.findall(looked_at)) + 0.25 * foreign) / max(foreign, 1)
