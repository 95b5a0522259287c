"""Personal data that its form gives away: found by a kernel that looks for digits and @, judged by a pattern and, where
there is one, by its check digit, and replaced by the name of its category. Names and addresses have no form; they are
for `names.py`. How much is found, and how much wrongly: docs/corpus-privacy.md.

What is no personal data must stay: prices, dates, part numbers, identifiers inside addresses and code. So a number
counts only where it stands alone, and a form that other numbers share (a postcode without 〒, ten digits without
hyphens) only with a word beside it that says what it is.
"""

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from kiban.artifacts.kernel import kernel
from kiban.corpus.utf8 import buffers, decode

if TYPE_CHECKING:
    import pyarrow as pa

PLACEHOLDERS = {
    "card": "〔カード番号〕",
    "my_number": "〔個人番号〕",
    "phone": "〔電話番号〕",
    "postcode": "〔郵便番号〕",
    "email": "〔メールアドレス〕",
    "ip_address": "〔IPアドレス〕",
    "bank_account": "〔口座番号〕",
    "driving_licence": "〔運転免許証番号〕",
    "passport": "〔旅券番号〕",
    "pension": "〔基礎年金番号〕",
    "name": "〔氏名〕",
    "address": "〔住所〕",
}
BEFORE, AFTER = 40, 16  # characters around a candidate that the patterns may look at
FEWEST_DIGITS = 7

# One form for what people write in many: the patterns below see ASCII digits, hyphens and brackets. Lengths are kept.
SEEN = str.maketrans("０１２３４５６７８９（）＋　‐‑‒–−－ー", "0123456789()+ -------")

ALONE = r"(?<![0-9A-Za-z_/=#&?%.@\\:-])"
ENDS = r"(?![0-9A-Za-z_@]|-[0-9A-Za-z]|\.\d)"
# Groups of digits with a space and more digits before or behind them may be part of a longer number.
ALONE_ALL, ENDS_ALL = rf"(?<!\d ){ALONE}", rf"(?! \d){ENDS}"
CARD = re.compile(
    rf"{ALONE_ALL}(?:\d{{4}}([ -]?)\d{{4}}\1\d{{4}}\1\d{{1,7}}|3\d{{3}}([ -]?)\d{{6}}\2\d{{4,5}}){ENDS_ALL}"
)
MY_NUMBER = re.compile(rf"{ALONE_ALL}\d{{4}}([ -]?)\d{{4}}\1\d{{4}}{ENDS_ALL}")
CARD_WORD = re.compile(r"カ-ド|[Cc]ard|CARD")  # ー is a hyphen here
MY_NUMBER_WORD = re.compile(r"マイナンバ-|個人番号|My ?Number")
# A number has 10 digits, that of a mobile or free line 11; +81 stands for the 0 at its beginning.
PHONES = (
    (re.compile(rf"(?<![0-9A-Za-z+])\+81[ -]?(?:\(0\)[ -]?)?\d{{1,4}}(?:[ -]?\d{{1,4}}){{1,3}}{ENDS}"), (11, 12)),
    (re.compile(rf"{ALONE}0[5-9]0([ -]?)\d{{4}}\1\d{{4}}{ENDS}"), (11,)),
    (re.compile(rf"{ALONE}0120([ -]?)(?:\d{{3}}\1\d{{3}}|\d{{2}}\1\d{{4}}){ENDS}"), (10,)),
    (re.compile(rf"{ALONE}0(?:570|800)([ -]?)\d{{3}}\1\d{{3,4}}{ENDS}"), (10, 11)),
    (re.compile(rf"{ALONE}0\d{{1,4}}-\d{{1,4}}-\d{{4}}{ENDS}"), (10,)),
    (re.compile(rf"{ALONE}(?:\(0\d{{1,4}}\) ?\d{{1,4}}-?\d{{4}}|0\d{{1,4}} ?\(\d{{1,4}}\) ?\d{{4}}){ENDS}"), (10,)),
)
BARE_PHONE = re.compile(rf"{ALONE}0\d{{9}}{ENDS}")
PHONE_WORD = re.compile(r"(?:電話|携帯|連絡先|TEL|Tel|tel|FAX|Fax|ファックス|ファクス)[^\n\d]{0,12}$")
POSTCODES = (
    re.compile(rf"〒 ?\d{{3}}-?\d{{4}}{ENDS}"),
    re.compile(rf"(?<=郵便番号)[^\n\d]{{0,4}}\d{{3}}-?\d{{4}}{ENDS}"),
    re.compile(rf"{ALONE}\d{{3}}-\d{{4}}(?=\)? ?(?:東京都|北海道|京都府|大阪府|[一-龥]{{2,3}}県))"),
)
EMAIL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_])?@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
IN_ADDRESS = re.compile(r"://\S*$")  # https://user:password@host is no mail address
# Four numbers with points between them: an address, unless it is a version, a section or part of a longer one.
IP_ADDRESS = re.compile(r"(?<![0-9A-Za-z_.%])\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z_%]|\.\d|-[0-9A-Za-z])")
NO_ADDRESS_WORD = re.compile(r"(?:バ-ジョン|[Vv]ersion|[Vv]er|第|章|節|版|v)[. :：]?\s*$")
# Forms that other numbers share: only with a word before them that says what they are.
TOLD = (
    (
        "bank_account",
        re.compile(rf"{ALONE_ALL}\d{{7}}{ENDS_ALL}"),
        r"口座(?:番号|No\.?)?|普通(?:預金|口座)?|当座(?:預金|口座)?",
    ),
    (
        "bank_account",
        re.compile(rf"{ALONE_ALL}\d{{5}}-\d{{7,8}}{ENDS_ALL}"),
        r"記号[・\-]?番号|ゆうちょ(?:銀行)?|口座番号",
    ),
    ("driving_licence", re.compile(rf"{ALONE_ALL}\d{{12}}(?=号?){ENDS_ALL}"), r"免許証?(?:の?番号)?"),
    (
        "passport",
        re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}\d{7}(?![0-9A-Za-z])"),
        r"旅券(?:の?番号)?|パスポ-ト(?:の?番号)?|[Pp]assport",
    ),
    ("pension", re.compile(rf"{ALONE_ALL}\d{{4}}-?\d{{6}}{ENDS_ALL}"), r"基礎年金番号|年金番号"),
)
TOLD_WORDS = tuple(re.compile(rf"(?:{words})[^\n\d。]{{0,12}}$") for _, _, words in TOLD)
TIMESTAMP = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d")


def mask(texts: "pa.StringArray") -> tuple["pa.StringArray", list[Counter[str]]]:
    """The texts with personal data replaced, and for each text how many of each category there were."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets, data = buffers(texts)
    candidates = _candidates(offsets, data, BEGINS)
    counts: list[Counter[str]] = [Counter() for _ in range(len(texts))]
    if not len(candidates):
        return texts, counts
    masked: dict[int, str] = {}
    rows, first = np.unique(candidates[:, 0], return_index=True)
    for row, of_row in zip(rows.tolist(), np.split(candidates[:, 1:], first[1:]), strict=True):
        raw = data[offsets[row] : offsets[row + 1]].tobytes()
        pieces, end = [], 0
        for start, stop, category in _found(raw, of_row - offsets[row]):
            pieces += [raw[end:start], PLACEHOLDERS[category].encode()]
            end = stop
            counts[row][category] += 1
        if pieces:
            masked[row] = b"".join([*pieces, raw[end:]]).decode()
    if not masked:
        return texts, counts
    changed = np.zeros(len(texts), bool)
    changed[list(masked)] = True
    replaced = pc.replace_with_mask(texts, pa.array(changed), pa.array(masked.values(), pa.string()))
    return replaced, counts


def _found(raw: bytes, spans: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """(start, stop, category) in bytes of what in `raw` is personal data, in order, none overlapping another."""
    done = 0
    for start, stop in spans.tolist():
        if start < done:
            continue
        before = raw[max(start - 3 * BEFORE, done) : start].decode(errors="ignore")[-BEFORE:]
        inside = raw[start:stop].decode()
        window = before + inside + raw[stop : stop + 3 * AFTER].decode(errors="ignore")[:AFTER]
        for first, last, category in sorted(_judge(window.translate(SEEN), len(before), len(before) + len(inside))):
            begin = start + len(window[len(before) : first].encode()) - len(window[first : len(before)].encode())
            if begin >= done:
                done = begin + len(window[first:last].encode())
                yield begin, done, category


def _judge(window: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    """What in `window` is personal data and begins in [start, stop): the patterns in order, each leaving what is
    taken."""
    taken = [False] * len(window)

    def take(first: int, last: int) -> bool:
        if first < start or first >= stop or any(taken[first:last]):
            return False
        taken[first:last] = [True] * (last - first)
        return True

    if "@" in window[start:stop]:
        for found in EMAIL.finditer(window):
            if not IN_ADDRESS.search(window[: found.start()]) and take(*found.span()):
                yield *found.span(), "email"
    for pattern, lengths in PHONES:
        for found in pattern.finditer(window, start):
            digits = re.sub(r"\D", "", found[0].replace("(0)", ""))
            if len(digits) in lengths and take(*found.span()):
                yield *found.span(), "phone"
    for (category, pattern, _), word in zip(TOLD, TOLD_WORDS, strict=True):
        for found in pattern.finditer(window, max(start - 2, 0)):
            first = found.start() + 2 * (category == "passport")  # the candidate begins behind its letters
            if start <= first < stop and word.search(window[: found.start()]) and take(first, found.end()):
                yield found.start(), found.end(), category
    for found in IP_ADDRESS.finditer(window, start):
        if _is_public(found[0]) and not NO_ADDRESS_WORD.search(window[: found.start()]) and take(*found.span()):
            yield *found.span(), "ip_address"
    for found in CARD.finditer(window, start):
        digits = re.sub(r"\D", "", found[0])
        told = len(digits) > 13 or CARD_WORD.search(window[: found.start()])  # 13 digits are mostly a product's (JAN)
        if _is_card(digits) and told and take(*found.span()):
            yield *found.span(), "card"
    for found in MY_NUMBER.finditer(window, start):
        digits = re.sub(r"\D", "", found[0])
        told = MY_NUMBER_WORD.search(window[: found.start()])
        if is_my_number(digits) and (told or not TIMESTAMP.fullmatch(found[0])) and take(*found.span()):
            yield *found.span(), "my_number"
    for pattern in POSTCODES:
        for found in pattern.finditer(window, max(start - 4, 0)):
            first = found.start() + re.search(r"[〒\d]", found[0]).start()  # type: ignore[union-attr]
            if take(first, found.end()):
                yield first, found.end(), "postcode"
    for found in BARE_PHONE.finditer(window, start):
        if PHONE_WORD.search(window[: found.start()]) and take(*found.span()):
            yield *found.span(), "phone"


def is_my_number(digits: str) -> bool:
    """Whether the last of 12 digits is the check digit of the others.

    The ministerial ordinance on individual numbers (平成26年総務省令第85号) article 5: with P_n the n-th digit from
    the right, the check digit not counted, and Q_n = n + 1 up to n = 6, n - 5 from there on, it is
    11 - (sum P_n Q_n mod 11), and 0 where that remainder is 0 or 1.
    """
    if len(digits) != 12:
        return False
    body = [int(digit) for digit in reversed(digits[:11])]
    remainder = sum(p * (n + 1 if n <= 6 else n - 5) for n, p in enumerate(body, 1)) % 11
    return int(digits[11]) == (0 if remainder <= 1 else 11 - remainder)


def _is_public(written: str) -> bool:
    """Whether it is an IPv4 address that belongs to someone: none of private, reserved and documentation networks."""
    try:
        return IPv4Address(written).is_global
    except ValueError:
        return False


def _is_card(digits: str) -> bool:
    """Luhn's check digit (ISO/IEC 7812-1 annex B), at the lengths and first digits that the big issuers use."""
    first2, first4 = int(digits[:2]), int(digits[:4])
    lengths: tuple[int, ...] = ()
    if digits[0] == "4":
        lengths = (13, 16, 19)  # Visa
    elif 51 <= first2 <= 55 or 2221 <= first4 <= 2720:
        lengths = (16,)  # Mastercard
    elif 3528 <= first4 <= 3589:
        lengths = (16, 17, 18, 19)  # JCB
    elif first2 in (34, 37):
        lengths = (15,)  # American Express
    elif first2 in (36, 38, 39) or 3000 <= first4 <= 3059:
        lengths = (14, 16)  # Diners Club
    elif first2 in (62, 64, 65) or first4 == 6011:
        lengths = (16, 17, 18, 19)  # UnionPay, Discover
    if len(digits) not in lengths:
        return False
    backwards = [int(digit) for digit in reversed(digits)]
    return (sum(backwards[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in backwards[1::2])) % 10 == 0


# First bytes of what a candidate can begin with: digits, + ( @, full-width forms (U+FF0x, U+FF1x), 〒 (U+3012).
BEGINS = np.zeros(256, bool)
BEGINS[[*b"0123456789+(@", 0xEF, 0xE3]] = True


@numba.njit(inline="always")
def _begins(data: Any, i: int, begins: Any) -> Any:
    first = data[i]
    return begins[first] and (
        first < 0x80
        or (first == 0xE3 and data[i + 1] == 0x80 and data[i + 2] == 0x92)
        or (first == 0xEF and data[i + 1] == 0xBC)
    )


@kernel
def _candidates(offsets: Any, data: Any, begins: Any) -> Any:
    """(text, start byte, stop byte) of runs of 7 or more digits with single separators between, of four numbers with
    points between, and of names with @."""
    found = np.empty((64, 3), np.int64)
    count = 0
    for d in range(len(offsets) - 1):
        i, stop = offsets[d], offsets[d + 1]
        start = np.int64(-1)
        end = np.int64(0)
        digits = separators = points = 0
        while i <= stop:
            while digits == 0 and separators == 0 and i < stop and not _begins(data, i, begins):
                i += 1 + 2 * (data[i] >= 0xE0)  # the rest of a longer character begins nothing
            c = np.int64(0x0A)
            length = np.int64(1)
            if i < stop:
                c, length = decode(data, i)
            if 0x30 <= c <= 0x39 or 0xFF10 <= c <= 0xFF19:
                if digits == 0 and separators == 0:
                    start = i
                digits += 1
                separators = 0
                end = i + length
            elif digits == 0 and (c == 0x2B or c == 0xFF0B or c == 0x28 or c == 0xFF08 or c == 0x3012):
                start = i  # + ( 〒 before the first digit
                separators = 1
            elif separators < 2 and _is_separator(c) and (digits or separators):
                separators += 1
            elif c == 0x2E and digits and separators == 0:
                points += 1
                separators = 2  # a digit must follow
            else:
                if digits >= FEWEST_DIGITS or points >= 3:
                    found, count = _add(found, count, d, start, end)
                if digits or separators:  # the character that ends a run may begin another
                    digits = separators = points = 0
                    continue
                if c == 0x40 and i > offsets[d] and _is_name(data[i - 1]) and i + 1 < stop and _is_name(data[i + 1]):
                    first = i
                    while first > offsets[d] and i - first < 64 and _is_name(data[first - 1]):
                        first -= 1
                    last = i + 1
                    while last < stop and _is_name(data[last]):
                        last += 1
                    found, count = _add(found, count, d, first, last)
                    i = last
                    continue
            i += length
    return found[:count]


@numba.njit(inline="always")
def _is_separator(c: Any) -> Any:
    return c in (0x2D, 0x20, 0x28, 0x29, 0xFF08, 0xFF09, 0x3000, 0xFF0D, 0x30FC, 0x2212) or 0x2010 <= c <= 0x2013


@numba.njit(inline="always")
def _is_name(byte: Any) -> Any:
    """Whether it stands in addresses: letters, digits, . _ % + -"""
    return (
        0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A or byte in (0x2E, 0x5F, 0x25, 0x2B, 0x2D)
    )


@numba.njit(nogil=True)
def _add(found: Any, count: Any, d: Any, start: Any, stop: Any) -> Any:
    if count == len(found):
        grown = np.empty((2 * count, 3), np.int64)
        grown[:count] = found
        found = grown
    found[count, 0] = d
    found[count, 1] = start
    found[count, 2] = stop
    return found, count + 1
