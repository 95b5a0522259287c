"""Time against money, as an SVG file of its own: what a run takes on more GPUs and on fewer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kiban.console.words import exact

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 48, 56

STYLE = """
text { font: 13px sans-serif; fill: #222 } .title { font-size: 16px; font-weight: bold }
.tick { fill: #555; font-size: 12px }
.grid { stroke: #e3e3e3 } .front { fill: none; stroke: #1f5f99; stroke-width: 2 }
.bound { stroke: #b3372e; stroke-dasharray: 5 4 }
.point { fill: #1f5f99 } .other { fill: #fff; stroke: #8a8a8a; stroke-width: 1.5 } .over { fill: #b3372e }
@media (prefers-color-scheme: dark) { svg { background: #16181c } text { fill: #e8e8e8 } .tick { fill: #aaa }
.grid { stroke: #333 } .other { fill: #16181c } .front { stroke: #6fb1ee } .point { fill: #6fb1ee } }
"""


def time_against_money(
    title: str, points: Sequence[Mapping[str, Any]], budget: float | None = None, deadline: float | None = None
) -> str:
    """Both axes logarithmic. `points`: `days`, `jpy`, `gpus`, `best` (no other is both faster and cheaper), `within`
    the bounds; `budget` in yen and `deadline` in days are drawn as lines."""
    days = [point["days"] for point in points] + ([deadline] if deadline else [])
    yen = [point["jpy"] for point in points] + ([budget] if budget else [])
    x_of = _Axis(days, LEFT, WIDTH - RIGHT)
    y_of = _Axis(yen, HEIGHT - BOTTOM, TOP)
    parts = [Markup('<text class="title" x="{}" y="26">{}</text>').format(LEFT, title)]
    for day in x_of.ticks():
        x = x_of(day)
        parts.append(
            Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, TOP, HEIGHT - BOTTOM)
        )
        parts.append(_text("tick", x, HEIGHT - BOTTOM + 18, "middle", exact(day)))
    for amount in y_of.ticks():
        y = y_of(amount)
        parts.append(
            Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/>').format(y, LEFT, WIDTH - RIGHT)
        )
        parts.append(_text("tick", LEFT - 8, y + 4, "end", _yen(amount)))
    parts.append(_text("", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "middle", "日数  days"))
    parts.append(_text("", 10, TOP - 8, "start", "円  yen"))
    if deadline:
        x = x_of(deadline)
        parts.append(
            Markup('<line class="bound" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, TOP, HEIGHT - BOTTOM)
        )
    if budget:
        y = y_of(budget)
        parts.append(
            Markup('<line class="bound" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/>').format(y, LEFT, WIDTH - RIGHT)
        )
    front = sorted((point for point in points if point["best"]), key=lambda point: point["days"])
    line = " ".join(f"{x_of(point['days']):.1f},{y_of(point['jpy']):.1f}" for point in front)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(line))
    for point in points:
        x, y = x_of(point["days"]), y_of(point["jpy"])
        kind = "over" if not point["within"] else "point" if point["best"] else "other"
        told = f"{point['gpus']:,} GPUs: {exact(point['days'])} days, {exact(point['jpy'])} yen; {point['text']}"
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
                kind, x, y, told
            )
        )
        anchor, shift = ("end", -8) if x > WIDTH - RIGHT - 60 else ("start", 8)
        parts.append(_text("", x + shift, y - 8, anchor, f"{point['gpus']:,}"))
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img">'
            "<style>{style}</style>{parts}</svg>\n"
        ).format(w=WIDTH, h=HEIGHT, style=Markup(STYLE), parts=Markup().join(parts))
    )


class _Axis:
    """A logarithmic axis from pixel `start` to `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.06 * (high - low), 0.05)
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten; the powers alone where those are many."""
        steps = (1, 2, 5) if self.high - self.low < 3 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = [step * 10.0**power for power in powers for step in steps]
        return [value for value in every if self.low <= math.log10(value) <= self.high]


def _text(kind: str, x: float, y: float, anchor: str, words: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)


def _yen(amount: float) -> str:
    """In 億 or 万, as people say it."""
    for size, word in ((1e8, "億円"), (1e4, "万円")):
        if amount >= size:
            return f"{amount / size:g}{word}"
    return f"{amount:g}円"
