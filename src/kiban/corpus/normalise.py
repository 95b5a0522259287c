"""Normal form of the stored text: NFC, one width for each kind of character, LF, no control characters.

Width, by kind of character:
- half-width kana and their punctuation (｡ ｢ ｣ ､ ･ ｰ) become full-width, a following (semi-)voiced mark composed in;
- full-width Latin letters and digits become ASCII, unless `keep_letters` (works of literature, where the width is the
  author's and printer's choice);
- everything else stays: ！ ？ （ ） ～ and the wide space are Japanese typography, and ① ㎡ ㍿ say more than 1 m2 (株).
  NFKC would destroy those, so it is not used.

Line ends become LF; spaces at line ends go, and of several empty lines one stays; other spaces (no-break, thin) become
an ordinary space; control characters, zero-width spaces, byte-order marks and direction marks go.
"""

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import buffers, decode, strings

if TYPE_CHECKING:
    import pyarrow as pa

# U+FF61 to U+FF9F in order.
_FULL_WIDTH = (
    "。「」、・ヲァィゥェォャュョッーアイウエオカキクケコサシスセソ"
    "タチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン゛゜"
)
_VOICED = {
    "カキクケコサシスセソタチツテトハヒフヘホウワヰヱヲ": "ガギグゲゴザジズゼゾダヂヅデドバビブベボヴヷヸヹヺ",
    "かきくけこさしすせそたちつてとはひふへほう": "がぎぐげござじずぜぞだぢづでどばびぶべぼゔ",
}
_SEMI_VOICED = {"ハヒフヘホはひふへほ": "パピプペポぱぴぷぺぽ"}
KANA, KANAS = 0x3041, 0xC0  # the first code point of the tables below, and their size
FULL_WIDTH = np.array([ord(c) for c in _FULL_WIDTH], np.int64)


def _table(pairs: dict[str, str]) -> np.ndarray:
    table = np.zeros(KANAS, np.int64)
    for plain, marked in pairs.items():
        table[[ord(c) - KANA for c in plain]] = [ord(c) for c in marked]
    return table


VOICED, SEMI_VOICED = _table(_VOICED), _table(_SEMI_VOICED)


def normalise(texts: "pa.StringArray", keep_letters: bool = False) -> "pa.StringArray":
    """The normal form of every text; doing it twice changes nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets, data = buffers(texts)
    starts, folded, unsure = _fold(
        offsets, data, keep_letters, _plain(keep_letters), FULL_WIDTH, VOICED, SEMI_VOICED, _may_change()
    )
    out = strings(starts, folded)
    if not unsure.any():
        return out
    rows = pa.array(unsure)
    return pc.replace_with_mask(out, rows, pc.utf8_normalize(out.filter(rows), form="NFC"))


@lru_cache(maxsize=1)
def _may_change() -> np.ndarray:
    """For each code point of the basic plane whether a text that holds it may change under NFC: those that decompose or
    are reordered, and those that compose with the one before. A text without them is in NFC (UAX 15, section 9)."""
    table = np.zeros(0x10000, bool)
    for c in range(0x300, 0x10000):  # below, nothing changes and nothing composes with the one before
        one = chr(c)
        table[c] = unicodedata.combining(one) != 0 or not unicodedata.is_normalized("NFC", one)
        parts = unicodedata.decomposition(one).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            table[int(parts[1], 16)] = True
    table[0x1161:0x1176] = table[0x11A8:0x11C3] = True  # Hangul is composed by arithmetic
    return table


@lru_cache(maxsize=2)
def _plain(keep_letters: bool) -> np.ndarray:
    """For each code point of the basic plane whether it stays as it is, whatever stands beside it, and is no space."""
    plain = ~_may_change()
    plain[:0x21] = plain[0x7F:0xA1] = False
    plain[[0xAD, 0x3000, *range(0x2000, 0x2070), *range(0xFF61, 0xFFA0), *range(0xFFF0, 0x10000), 0xFEFF]] = False
    if not keep_letters:
        plain[[*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]] = False
    return plain


@kernel
def _fold(
    offsets: Any, data: Any, keep_letters: bool, plain: Any, full: Any, voiced: Any, semi: Any, may_change: Any
) -> Any:
    """All of it but NFC, in one pass: offsets and bytes of the result, and which texts NFC may change. None
    grows."""
    n = len(offsets) - 1
    unsure = np.zeros(n, np.bool_)
    out = np.empty(offsets[n] - offsets[0], np.uint8)
    starts = np.zeros(n + 1, np.int32)
    o = 0
    for d in range(n):
        begin = o
        visible = o  # the end of the last visible character
        floor = o  # the same, with the line ends written since
        lines = 0  # how many those are
        last = np.int64(0)  # the last visible character, if nothing stands behind it
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            c, length = decode(data, i)
            if c < 0x10000 and plain[c]:
                for _ in range(length):
                    out[o] = data[i]
                    o += 1
                    i += 1
                visible = o
                floor = o
                lines = 0
                last = c
                continue
            i += length
            if c == 0x0D and i < stop and data[i] == 0x0A:
                continue
            if 0x0A <= c <= 0x0D or c == 0x85 or c == 0x2028 or c == 0x2029:
                o = floor
                if visible > begin and lines < 2:
                    out[o] = 0x0A
                    o += 1
                    lines += 1
                    floor = o
                last = np.int64(0)
            elif c == 0xA0 or 0x2000 <= c <= 0x200A or c == 0x202F or c == 0x205F:
                out[o] = 0x20
                o += 1
                last = np.int64(0)
            elif c == 0x20 or c == 0x09 or c == 0x3000:
                o = _put(out, o, c)
                last = np.int64(0)
            elif not _is_dropped(c):
                mark = c == 0xFF9E or c == 0xFF9F
                joined = np.int64(0)
                if mark and KANA <= last < KANA + KANAS:
                    joined = voiced[last - KANA] if c == 0xFF9E else semi[last - KANA]
                if joined:
                    o -= 3  # the kana before, which is written anew with its mark
                    c = joined
                elif 0xFF61 <= c <= 0xFF9F:
                    c = full[c - 0xFF61]
                elif not keep_letters and (0xFF10 <= c <= 0xFF19 or 0xFF21 <= c <= 0xFF3A or 0xFF41 <= c <= 0xFF5A):
                    c -= 0xFEE0
                # Beyond the basic plane: kanji and pictographs are safe, all else is not asked.
                unsure[d] |= may_change[c] if c < 0x10000 else not (0x1F300 <= c < 0x1FB00 or 0x20000 <= c < 0x2F800)
                o = _put(out, o, c)
                visible = o
                floor = o
                lines = 0
                last = c
        o = visible
        starts[d + 1] = o
    return starts, out[:o], unsure


@numba.njit(inline="always")
def _put(out: Any, o: int, c: int) -> int:
    if c < 0x80:
        out[o] = c
        return o + 1
    if c < 0x800:
        out[o] = 0xC0 | c >> 6
        out[o + 1] = 0x80 | c & 0x3F
        return o + 2
    if c < 0x10000:
        out[o] = 0xE0 | c >> 12
        out[o + 1] = 0x80 | c >> 6 & 0x3F
        out[o + 2] = 0x80 | c & 0x3F
        return o + 3
    out[o] = 0xF0 | c >> 18
    out[o + 1] = 0x80 | c >> 12 & 0x3F
    out[o + 2] = 0x80 | c >> 6 & 0x3F
    out[o + 3] = 0x80 | c & 0x3F
    return o + 4


@numba.njit(inline="always")
def _is_dropped(c: int) -> bool:
    """Control characters, soft hyphens, zero-width spaces, direction and annotation marks, non-characters."""
    if c < 0x20 or 0x7F <= c < 0xA0 or c == 0xAD:
        return True
    if c < 0x200B:
        return False
    return (
        c == 0x200B
        or c == 0x200E
        or c == 0x200F
        or 0x202A <= c <= 0x202E
        or 0x2060 <= c <= 0x206F
        or c == 0xFEFF
        or 0xFFF9 <= c <= 0xFFFC
        or c == 0xFFFE
        or c == 0xFFFF
    )
