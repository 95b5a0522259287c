"""Words in two languages, and how numbers are written in each."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup, escape


class Both(NamedTuple):
    """A text in Japanese and in English. In a template it becomes two spans, of which the page shows one."""

    ja: str
    en: str

    def __html__(self) -> Markup:
        if self.ja == self.en:
            return escape(self.ja)
        return Markup('<span data-lang="ja" lang="ja">{}</span><span data-lang="en" lang="en">{}</span>').format(*self)


def same(text: str) -> Both:
    return Both(text, text)


def joined(parts: list[Both], ja: str = "、", en: str = ", ") -> Both:
    return Both(ja.join(part.ja for part in parts), en.join(part.en for part in parts))


_PLACE = re.compile(r"\{([^{}]+)\}")


def filled(sentence: Both, values: Mapping[str, Both]) -> Both:
    """`sentence` with every `{name}` replaced.

    Raises:
        KeyError: if a name has no value.
    """
    return Both(
        _PLACE.sub(lambda found: values[found[1]].ja, sentence.ja),
        _PLACE.sub(lambda found: values[found[1]].en, sentence.en),
    )


# Numbers


def exact(value: float) -> str:
    """A count in full, 1,234,567; anything else to four figures."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.4g}"


def _scaled(value: float, sizes: tuple[tuple[float, str], ...]) -> str:
    size, word = next((pair for pair in sizes if abs(value) >= pair[0]), sizes[-1])
    scaled = value / size
    return f"{scaled:,.{0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2}f}{word}"


def short(value: float) -> Both:
    """A count to three figures where it has a million or more: 502万, 5.02M."""
    if abs(value) < 1e6:
        return same(exact(value))
    return Both(
        _scaled(value, ((1e12, "兆"), (1e8, "億"), (1e4, "万"))), _scaled(value, ((1e12, "T"), (1e9, "B"), (1e6, "M")))
    )


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def data_size(value: float) -> str:
    if value < 1e3:
        return f"{value:.0f} B"
    return _scaled(value, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB")))


def duration(seconds: float) -> Both:
    if seconds < 0.1:
        return Both("0.1秒未満", "under 0.1 s")
    if seconds < 10:
        return Both(f"{seconds:.1f}秒", f"{seconds:.1f} s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return Both(f"{hours}時間{minutes:02}分", f"{hours} h {minutes:02} min")
    if minutes:
        return Both(f"{minutes}分{rest:02}秒", f"{minutes} min {rest:02} s")
    return Both(f"{rest}秒", f"{rest} s")


def yen(amount: int) -> Both:
    """100億円, 12億3,456万円; in English ¥10 billion, ¥1,234,560,000."""
    parts, rest = [], amount
    for size, word in ((10**12, "兆"), (10**8, "億"), (10**4, "万")):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,}{word}")
    if rest or not parts:
        parts.append(f"{rest:,}")
    japanese = "".join(parts) + "円"
    if amount >= 10**9 and amount % 10**7 == 0:
        return Both(japanese, f"¥{amount / 10**9:,.10g} billion")
    if 10**6 <= amount < 10**9 and amount % 10**4 == 0:
        return Both(japanese, f"¥{amount / 10**6:g} million")
    return Both(japanese, f"¥{amount:,}")


PROPORTIONS = ("proportion", "share", "success rate", "success rate lost")


def number(value: float, unit: str) -> Both:
    """A value where the words around it say what is counted: without its unit, unless that is a part of the number."""
    if unit in PROPORTIONS:
        return same(percent(value))
    if unit == "bytes":
        return same(data_size(value))
    if unit in ("s", "seconds"):
        return duration(value)
    return short(value)


def quantity(value: float, unit: str) -> Both:
    """A value with its unit."""
    bare = number(value, unit)
    if unit in (*PROPORTIONS, "bytes", "s", "seconds"):
        return bare
    name = UNITS.get(unit, same(unit))
    gap = " " if name.ja[:1].isascii() else ""
    return Both(f"{bare.ja}{gap}{name.ja}".strip(), f"{bare.en} {name.en}".strip())


def between(interval: tuple[float, float] | None, unit: str) -> str:
    """An interval as 49.0–66.0%; empty where there is none."""
    if interval is None:
        return ""
    low, high = (number(end, unit).en for end in interval)
    return f"{low.removesuffix('%')}–{high}"


UNITS = {
    "": Both("", ""),
    "1": Both("", ""),
    "count": Both("", ""),
    "documents": Both("文書", "documents"),
    "characters": Both("字", "characters"),
    "tokens": Both("トークン", "tokens"),
    "files": Both("ファイル", "files"),
    "episodes": Both("エピソード", "episodes"),
    "frames": Both("フレーム", "frames"),
    "parameters": Both("パラメータ", "parameters"),
    "tensors": Both("テンソル", "tensors"),
    "milestones": Both("件", "milestones"),
    "places": Both("箇所", "places"),
    "entries": Both("", ""),
    "steps": Both("ステップ", "steps"),
    "bits/character": Both("ビット/字", "bits/character"),
    "nats/token": Both("nat/トークン", "nats/token"),
    "interventions/episode": Both("回/エピソード", "interventions/episode"),
    "tokens/s": Both("トークン/秒", "tokens/s"),
    "frames/s": Both("フレーム/秒", "frames/s"),
    "characters/token": Both("字/トークン", "characters/token"),
    "bytes/token": Both("バイト/トークン", "bytes/token"),
}
