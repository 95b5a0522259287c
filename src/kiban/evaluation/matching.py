"""Whether what a model wrote is what a reference says."""

import re
import unicodedata
from collections import Counter

_NUMBER = re.compile(r"-?[0-9.,]+")
_QUOTES = "「」『』\"'（）()。、．，.,!?！？ \t\r\n\u3000"


def normalised(text: str) -> str:
    """NFKC, lower case, no white space, no quotation or sentence marks at the ends."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"\s+", "", text).strip(_QUOTES)


def last_number(text: str) -> str:
    """The last number of a text as digits, as lm-evaluation-harness takes it for ja_leaderboard_mgsm; empty if there is
    none, or it is no whole number."""
    found = _NUMBER.findall(text)
    if not found:
        return ""
    try:
        value = float(found[-1].strip(".").replace(",", ""))
    except ValueError:
        return ""
    return str(int(value)) if value.is_integer() else ""


def character_f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall over characters, with their numbers, as JGLUE measures JSQuAD."""
    a, b = Counter(normalised(text)), Counter(normalised(reference))
    common = sum((a & b).values())
    if not common:
        return float(a == b)
    precision, recall = common / a.total(), common / b.total()
    return 2 * precision * recall / (precision + recall)
