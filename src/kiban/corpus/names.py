"""Names and addresses of people, found by what a morphological analyser takes for names of people and places
(SudachiPy with its core dictionary; `kiban[names]`).

A family name is masked with the given name behind it, or with what people are called by (さん, 様, 部長), which stays.
A place is masked only with the number of a block or house behind it: 東京 alone is nobody's address. It costs a hundred
times what the other masks do, and it takes the names of public and historical people too, so it is for letters, minutes
and dialogues, not for literature.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kiban.artifacts.errors import KibanError

if TYPE_CHECKING:
    import pyarrow as pa

NAME, ADDRESS = "〔氏名〕", "〔住所〕"
HONORIFICS = frozenset(
    "さん 様 さま 氏 殿 君 くん ちゃん 先生 先輩 社長 専務 常務 部長 課長 係長 主任 次長 室長 所長 店長 班長 院長 教授 "
    "准教授 医師 弁護士 議員 選手 監督 夫妻".split()
)
BETWEEN = frozenset(" 　・")
# What stands behind the last name of a place: 三丁目1番2号, 1-2-3, 北1条西2丁目, a building and a room.
_NUMBER = r"[0-9０-９一二三四五六七八九十]{1,4}"
_STREET = rf"(?:[東西南北]?{_NUMBER}(?:条|線))?[東西南北]?{_NUMBER}"
BLOCK = re.compile(
    rf"(?:大字|字)?(?:{_STREET}(?:丁目|番地の?|番|号)(?:の?{_NUMBER}(?:番地|番|号|丁目)?|[-－−‐ー]{_NUMBER})*"
    rf"|{_STREET}(?:[-－−‐ー]{_NUMBER}){{1,3}})"
    r"(?:[ 　]?[^\W\d_]{2,12}(?:ビル|マンション|ハイツ|荘|コーポ|アパート|タワー|棟|団地))?"
    rf"(?:[ 　]?{_NUMBER}(?:号室|号|階|F))?"
    r"(?![0-9０-９年月日点対人円])"
)
# Two numbers with a hyphen are also a score: they need a place that is more than a name, or a third number.
SCORE = re.compile(rf"{_NUMBER}[-－−‐ー]{_NUMBER}")
MUNICIPALITY = re.compile(r".[市区町村郡]")
MOST_BYTES = 40_000  # of text at once; SudachiPy refuses 49,150


def mask(texts: "pa.StringArray") -> tuple["pa.StringArray", list[Counter[str]]]:
    """The texts with names and addresses replaced, and for each text how many of each there were.

    Raises:
        KibanError: if SudachiPy or its dictionary is not installed.
    """
    import pyarrow as pa

    analyser = tokenizer()
    out: list[str] = []
    counts: list[Counter[str]] = []
    for text in texts.to_pylist():
        found: Counter[str] = Counter()
        parts = []
        for block in _blocks(text):
            end = 0
            for start, stop, category in _found(analyser, block):
                parts += [block[end:start], NAME if category == "name" else ADDRESS]
                found[category] += 1
                end = stop
            parts.append(block[end:])
        out.append("".join(parts))
        counts.append(found)
    return pa.array(out, pa.string()), counts


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """The analyser; made once.

    Raises:
        KibanError: if it or its dictionary is not installed.
    """
    try:
        from sudachipy import Dictionary, SplitMode

        return Dictionary(dict="core").tokenizer(mode=SplitMode.C)
    except ImportError as error:
        raise KibanError(
            f"[corpus] mask_names needs SudachiPy and its dictionary ({error}); pip install 'kiban[names]'"
        ) from None


def _blocks(text: str) -> Iterator[str]:
    """The text in parts that are short enough for the analyser, cut behind lines, or sentences, or anywhere."""
    block: list[str] = []
    size = 0
    for line in re.findall(r"[^\n。]*(?:[\n。]|\Z)", text):
        for start in range(0, len(line), MOST_BYTES // 4):
            piece = line[start : start + MOST_BYTES // 4]
            if size + len(piece) > MOST_BYTES // 4:
                yield "".join(block)
                block, size = [], 0
            block.append(piece)
            size += len(piece)
    yield "".join(block)


def _found(analyser: Any, text: str) -> Iterator[tuple[int, int, str]]:
    """(start, stop, category) in characters, in order, none overlapping another."""
    tokens = [
        (token.surface(), token.begin(), token.end(), token.part_of_speech()) for token in analyser.tokenize(text)
    ]
    done = at = 0
    while at < len(tokens):
        surface, start, stop, part = tokens[at]
        at += 1
        if start < done or part[1] != "固有名詞":
            continue
        if part[2] == "人名":
            last = at  # the first token behind the name
            given = last + (last < len(tokens) and tokens[last][0] in BETWEEN)
            whole = given < len(tokens) and part[3] == "姓" and tokens[given][3][2:4] == ("人名", "名")
            if whole:
                last = given + 1
            behind = last + (last < len(tokens) and tokens[last][0] in BETWEEN)
            called = behind < len(tokens) and tokens[behind][0] in HONORIFICS
            if whole or called:
                done = tokens[last - 1][2]
                at = last
                yield start, done, "name"
        elif part[2] == "地名":
            while at < len(tokens) and tokens[at][3][1:3] == ("固有名詞", "地名"):
                at += 1
            place_ends = tokens[at - 1][2]
            block = BLOCK.match(text, place_ends)
            if block and (not SCORE.fullmatch(block[0]) or MUNICIPALITY.search(text[start:place_ends])):
                done = block.end()
                yield start, done, "address"
