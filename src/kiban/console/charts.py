"""Charts as SVG drawn by hand: no script, no colour of their own (the page's style sheet has them), any width.

Lengths along x are percentages, so text keeps its size on a narrow screen. Lines are drawn in a stretched inner SVG.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup

from kiban.console.words import exact


def bar(share: float, kind: str) -> Markup:
    """One horizontal bar for a table cell. `share` of the width, 0..1."""
    return Markup(
        '<svg class="cell" width="100%" height="12" aria-hidden="true">'
        '<rect class="rail" width="100%" height="12" rx="2"/>'
        '<rect class="bar {}" width="{:.2f}%" height="12" rx="2"/></svg>'
    ).format(kind, 100 * min(max(share, 0.0), 1.0))


def whisker(
    value: float,
    interval: tuple[float, float] | None,
    top: float = 1.0,
    chance: float | None = None,
    bound: float | None = None,
) -> Markup:
    """A point with its interval on a rail from 0 to `top`, with the chance level and a bound as ticks."""

    def x(v: float) -> str:
        return f"{100 * min(max(v / top, 0.0), 1.0):.2f}%"

    parts = [Markup('<line class="rail" x1="0%" x2="100%" y1="9" y2="9"/>')]
    if chance is not None:
        parts.append(Markup('<line class="chance" x1="{0}" x2="{0}" y1="1" y2="17"/>').format(x(chance)))
    if bound is not None:
        parts.append(Markup('<line class="bound" x1="{0}" x2="{0}" y1="1" y2="17"/>').format(x(bound)))
    if interval is not None:
        low, high = x(interval[0]), x(interval[1])
        parts.append(Markup('<line class="interval" x1="{}" x2="{}" y1="9" y2="9"/>').format(low, high))
    parts.append(Markup('<circle class="point" cx="{}" cy="9" r="4"/>').format(x(value)))
    return Markup('<svg class="cell whisker" width="100%" height="18" aria-hidden="true">{}</svg>').format(
        Markup().join(parts)
    )


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value with up to `reach` neighbours on either side; fewer near the ends, as many on both."""
    sums = [0.0, *accumulate(values)]
    means = []
    for i in range(len(values)):
        side = min(reach, i, len(values) - 1 - i)
        means.append((sums[i + side + 1] - sums[i - side]) / (2 * side + 1))
    return means


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = 600) -> tuple[list[float], list[float]]:
    """At most about `most` points: means over equal runs of points."""
    step = max(1, math.ceil(len(xs) / most))
    groups = [slice(i, i + step) for i in range(0, len(xs), step)]
    return [sum(xs[g]) / len(xs[g]) for g in groups], [sum(ys[g]) / len(ys[g]) for g in groups]


def ticks(low: float, high: float, about: int, least: float = 0.0) -> list[float]:
    """About so many round numbers within low..high, at least `least` apart."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / about))
    step *= next((m for m in (1, 2, 5) if span / (step * m) <= about + 0.5), 10)
    step = max(step, least)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    xs: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float]]],
    height: int,
    labelled_by: str,
    zero: bool = False,
) -> Markup:
    """Lines over x. `lines` are (CSS class, ys), later ones on top; `zero` has the y axis begin at 0."""
    all_y = [y for _, ys in lines for y in ys]
    assert len(xs) > 1 and all(len(ys) == len(xs) for _, ys in lines)
    low, high = (0.0 if zero else min(all_y)), max(all_y)
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    low, high = (0.0 if zero else low - margin), high + 2 * margin
    left, right = xs[0], xs[-1]
    plot = height - 22  # the strip below holds the labels of x

    def y_pixel(y: float) -> float:
        return plot * (1 - (y - low) / (high - low))

    grid, labels = [], []
    for y in ticks(low, high, max(2, height // 65)):
        grid.append(Markup('<line class="grid" x1="0%" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(y_pixel(y)))
        name = exact(round(y, 12))
        labels.append(Markup('<text class="tick" x="0%" y="{:.1f}">{}</text>').format(y_pixel(y) - 4, name))
    for x in ticks(left, right, 5, least=1.0):
        place = 100 * (x - left) / ((right - left) or 1)
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        labels.append(
            Markup('<text class="tick" x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(
                place, height - 5, anchor, exact(x)
            )
        )
    paths = []
    for kind, ys in lines:
        points = " ".join(
            f"{1000 * (x - left) / ((right - left) or 1):.1f},{y_pixel(y):.1f}" for x, y in zip(xs, ys, strict=True)
        )
        paths.append(Markup('<polyline class="{}" points="{}"/>').format(kind, points))
    return Markup(
        '<svg class="chart" width="100%" height="{h}" role="img" aria-labelledby="{by}">{grid}'
        '<svg width="100%" height="{plot}" viewBox="0 0 1000 {plot}" preserveAspectRatio="none">{paths}</svg>'
        "{labels}</svg>"
    ).format(
        h=height,
        by=labelled_by,
        grid=Markup().join(grid),
        plot=plot,
        paths=Markup().join(paths),
        labels=Markup().join(labels),
    )
