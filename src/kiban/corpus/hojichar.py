"""What HojiChar, llm-jp-corpus and uzushio judge a text by, defined as they do: HojiChar's document filters (0.18), of
which those that need a morphological analyser are left out; the size of the text compressed, by zlib at level 9
(llm-jp-corpus) and by LZ4 (uzushio), over its size."""

import re
import zlib
from typing import Any

import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import decode

NAMES = (
    "hojichar.kana_at_start",  # hiragana and katakana among the first 50 characters (AcceptJapanese)
    "hojichar.characters_per_kuten",  # characters for each 。, infinite without one (DiscardRareKuten)
    "hojichar.longest_run",  # of one character, whichever (SingleCharacterRepetitionFilter)
    "hojichar.ellipsis_line_ratio",  # line ends behind ... or …, of all (DiscardTooManyEndingEllipsis)
    "hojichar.short_line_ratio",  # lines of at most 10 characters (DiscardTooShortLines)
    "uzushio.hiragana_ratio",  # U+3040 to U+309F, of all characters that end no line (HiraganaRatio)
    "uzushio.length",  # characters that end no line (DocLength)
)
BBS = ("hojichar.bbs_matches",)  # dates, 「コメント」 and the like (DiscardBBSComments)
ZLIB, LZ4 = ("zlib_ratio",), ("lz4_ratio",)
LOOKED_AT, SHORT_LINE = 50, 10
LZ4_BYTES = 1 << 20  # uzushio compresses no more of a text
BBS_PATTERN = re.compile(
    r"\d{4}[-./年] *\d{1,2}[-./月] *\d{1,2}日*|\d+話|\([月火水木金土日]\)|SOLD OUT|-"
    "|コメント|レビュー|投稿|ページ|質問|楽天市場"
)


@kernel
def documents(offsets: Any, data: Any) -> Any:
    """N x len(NAMES)."""
    n = len(offsets) - 1
    out = np.zeros((n, 7), np.float64)
    for d in range(n):
        characters = kana = kuten = run = longest = line_ends = ellipses = short = hiragana = line = 0
        previous, before, third = np.int64(-1), np.int64(-1), np.int64(-1)
        i, stop = offsets[d], offsets[d + 1]
        while i < stop:
            c, length = decode(data, i)
            i += length
            if characters < LOOKED_AT:
                kana += 0x3041 <= c <= 0x3093 or 0x30A1 <= c <= 0x30F3
            characters += 1
            hiragana += 0x3040 <= c <= 0x309F
            kuten += c == 0x3002
            run = run + 1 if c == previous else 1
            longest = max(longest, run)
            if c == 0x0A:
                line_ends += 1
                dots = previous == 0x2E and before == 0x2E and third == 0x2E
                ellipses += dots or previous == 0x2026
                short += line <= SHORT_LINE
                line = 0
            else:
                line += 1
            third, before, previous = before, previous, c
        short += line <= SHORT_LINE
        out[d, 0] = kana
        out[d, 1] = characters / kuten if kuten else (np.inf if characters else 0.0)
        out[d, 2] = longest
        out[d, 3] = ellipses / max(line_ends, 1)
        out[d, 4] = short / (line_ends + 1)
        out[d, 5] = hiragana / max(characters - line_ends, 1)
        out[d, 6] = characters - line_ends
    return out


def bbs_matches(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    """N x 1."""
    found = [len(BBS_PATTERN.findall(text.decode())) for text in _texts(offsets, data)]
    return np.array(found, np.float64).reshape(-1, 1)


def zlib_ratio(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    """N x 1; 0 for an empty text."""
    found = [len(zlib.compress(text, 9)) / len(text) if text else 0.0 for text in _texts(offsets, data)]
    return np.array(found, np.float64).reshape(-1, 1)


def lz4_ratio(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    """N x 1; 0 for an empty text."""
    import pyarrow as pa

    lz4 = pa.Codec("lz4_raw")
    texts = (text[:LZ4_BYTES] for text in _texts(offsets, data))
    found = [lz4.compress(text, asbytes=False).size / len(text) if text else 0.0 for text in texts]
    return np.array(found, np.float64).reshape(-1, 1)


def _texts(offsets: np.ndarray, data: np.ndarray) -> list[bytes]:
    ends = offsets.tolist()
    return [data[start:stop].tobytes() for start, stop in zip(ends[:-1], ends[1:], strict=True)]
