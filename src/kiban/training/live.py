"""Training as it is seen on a terminal: how far it is, the loss so far, the last step's figures, the experts' load.

Bars and the curve are braille: block and line characters are two columns wide on many Japanese terminals.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from kiban.artifacts.progress import Progress, Task, clock, count

DRAWN_PER_SECOND = 2.0
CURVE_POINTS = 1024
CURVE_ROWS = 8
LABEL = 8  # columns left of the curve
EXPERT_BAR = 6  # columns; full at EXPERT_FULL times the mean
EXPERT_FULL = 4.0
EXPERT_CELL = 24

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_NOT_SHOWN = ("step", "seconds", "expert_load_max", "expert_load")


@contextmanager
def live(progress: Progress, num_steps: int, records: Sequence[Mapping[str, Any]] = ()) -> Iterator["View"]:
    """A view of a training of `num_steps` steps, of which `records` are done. Lines of progress where there is no
    terminal, or where it is taken."""
    view = View(num_steps, records)
    if not progress.free_terminal:
        with progress.task("training", num_steps, "steps") as task:
            task.update(len(records))
            view._task = task
            yield view
        return
    try:
        with progress.drawing(lambda: view, DRAWN_PER_SECOND):
            yield view
    finally:
        progress.say(view.summary())


class View:
    """Drawn by Rich, a few times a second, in a thread of its own; `update` only keeps what it is given."""

    def __init__(self, num_steps: int, records: Sequence[Mapping[str, Any]] = ()) -> None:
        self._num_steps, self._first = num_steps, len(records)
        self._curve = Curve()
        for record in records:
            self._curve.add(record.get("loss", math.nan))
        self._record: Mapping[str, Any] = records[-1] if records else {}
        self._saved: tuple[int, float] | None = None
        self._start = time.monotonic()
        self._task: Task | None = None  # where lines are said instead

    def update(self, record: Mapping[str, Any]) -> None:
        """The log's record of a step; with `expert_load`, the tokens of each expert in lists by layer, their load."""
        if self._task is not None:
            self._task.note(f"loss {record.get('loss', math.nan):.3f}")
            self._task.update(record["step"])
            return
        self._curve.add(record.get("loss", math.nan))
        self._record = record

    def saved(self, step: int) -> None:
        """A checkpoint was written."""
        self._saved = (step, time.monotonic())

    def summary(self) -> str:
        loss = f", loss {self._record['loss']:.4f}" if "loss" in self._record else ""
        seconds = time.monotonic() - self._start
        return f"training: {count(self._done)}/{count(self._num_steps)} steps{loss} in {clock(seconds)}"

    @property
    def _done(self) -> int:
        return int(self._record.get("step", self._first))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """No more lines than the terminal has: the curve and the experts share what is left."""
        width, height = options.max_width, console.size.height - 1
        marks = _Marks(options.ascii_only)
        progress, figures = self._progress(width, marks), _wrapped(self._figures(), width)
        left = height - len(progress) - len(figures)
        experts = _experts(self._record.get("expert_load") or [], width, left // 2, marks)
        rows = min(CURVE_ROWS, left - len(experts))
        curve = self._curve.drawn(width, rows, marks) if rows >= 2 else []
        for line in [*progress, *curve, *figures, *experts][:height]:
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def _progress(self, width: int, marks: "_Marks") -> list[Text]:
        done = self._done
        share = done / self._num_steps
        rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
        words = [f"{count(done)}/{count(self._num_steps)} steps"]
        if rate > 0:
            words += [
                f"{count(rate)} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step",
                f"{clock((self._num_steps - done) / rate)} left",
            ]
        text, name = ", ".join(words), "training "
        room = width - len(name) - len(f" 100% {text}")
        if room >= 12:
            bar = marks.bar(share, room, rest=True)
            return [Text.assemble((name, "bold"), (bar, "cyan"), f" {share:4.0%} {text}")]
        bar = marks.bar(share, max(1, width - len(name) - len(" 100%")), rest=True)
        return [
            Text.assemble((name, "bold"), (bar, "cyan"), f" {share:4.0%}"),
            *_wrapped([(w, "") for w in words], width),
        ]

    def _figures(self) -> list[tuple[str, str]]:
        record = self._record
        if not record:
            return [("the first step is on its way", "")]
        known = {
            "loss": "{:.4f}",
            "lr": "{:.2e}",
            "grad_norm": "{:.3g}",
            "mfu": "{:.1%}",
            "tokens": "",
            "tokens_per_s": "",
            "memory_bytes": "",
        }
        names = {"grad_norm": "grad norm", "tokens_per_s": "tokens/s", "mfu": "MFU", "memory_bytes": "memory"}
        figures = []
        for key in [*known, *(key for key in record if key not in known)]:
            value = record.get(key)
            if key in _NOT_SHOWN or not isinstance(value, int | float):
                continue
            if key == "memory_bytes":
                shown = f"{value / 1e9:.2f} GB"
            elif known.get(key) == "" and math.isfinite(value):
                shown = count(value)
            else:
                shown = (known.get(key) or "{:.4g}").format(value)
            figures.append((names.get(key, key.replace("_", " ")), shown))
        if self._saved is not None:
            step, at = self._saved
            figures.append(("checkpoint", f"{step}, {clock(time.monotonic() - at)} ago"))
        return figures


class Curve:
    """A series of any length in at most CURVE_POINTS means over equally many values. What is no number leaves a gap."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []  # sums and counts
        self._each, self._number = 1, 0

    def add(self, value: float) -> None:
        if self._number == self._each * CURVE_POINTS:
            points = self._points
            self._points = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(points[::2], points[1::2], strict=True)]
            self._each *= 2
        added = (max(-1e30, min(value, 1e30)), 1) if math.isfinite(value) else (0.0, 0)
        if self._number % self._each == 0:
            self._points.append(added)
        else:
            before = self._points[-1]
            self._points[-1] = (before[0] + added[0], before[1] + added[1])
        self._number += 1

    def columns(self, number: int) -> list[float | None]:
        """The series over so many columns: means where it is longer, lines between its points where it is shorter."""
        points = list(self._points)  # at one moment: this is another thread than that of `add`
        if len(points) >= number:
            groups = [points[i * len(points) // number : (i + 1) * len(points) // number] for i in range(number)]
            sums = [(sum(s for s, _ in group), sum(n for _, n in group)) for group in groups]
            return [s / n if n else None for s, n in sums]
        values = [s / n if n else None for s, n in points]
        if len(values) < 2:
            return values
        found: list[float | None] = []
        for i in range(number):
            at = i * (len(values) - 1) / (number - 1)
            low, high = values[math.floor(at)], values[math.ceil(at)]
            found.append(None if low is None or high is None else low + (high - low) * (at - math.floor(at)))
        return found

    def drawn(self, width: int, rows: int, marks: "_Marks") -> list[Text]:
        """With the largest and least value at the left. The scale is that of the series without its first tenth, where
        the loss falls so far that nothing would be seen of the rest; what is above it runs along the top."""
        dots = 4 * rows
        columns = self.columns(2 * max(1, width - LABEL))
        finite = [value for value in columns if value is not None]
        if not finite:
            return []
        scale = finite[len(finite) // 10 :]
        top, bottom = max(scale), min(scale)
        cells = [[0] * max(1, width - LABEL) for _ in range(rows)]
        before: int | None = None
        for x, value in enumerate(columns):
            if value is None:
                before = None
                continue
            share = (top - value) / (top - bottom) if top > bottom else 0.5
            y = round(max(0.0, min(share, 1.0)) * (dots - 1))
            start = y if before is None else before + (y > before) - (y < before)
            for dot in range(min(start, y), max(start, y) + 1):
                cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
            before = y
        labels = [""] * rows
        labels[rows // 2] = "loss"
        labels[0], labels[-1] = f"{top:.4g}"[: LABEL - 1], f"{bottom:.4g}"[: LABEL - 1]
        return [
            Text.assemble((f"{label:>{LABEL - 1}} ", "dim"), ("".join(map(marks.dots, row)), "green"))
            for label, row in zip(labels, cells, strict=True)
        ]


class _Marks:
    """What bars and curves are drawn with: braille, or ASCII where the terminal's encoding is not UTF-8."""

    def __init__(self, ascii_only: bool) -> None:
        self._ascii = ascii_only

    def dots(self, bits: int) -> str:
        if self._ascii:
            return "*" if bits else " "
        return chr(0x2800 + bits) if bits else " "

    def bar(self, share: float, width: int, rest: bool = False) -> str:
        halves = round(max(0.0, min(share, 1.0)) * 2 * width)
        full, half, empty = ("#", "-", "." if rest else " ") if self._ascii else ("⣿", "⡇", "⣀" if rest else " ")
        return (full * (halves // 2) + half * (halves % 2)).ljust(width, empty)


def _wrapped(figures: Sequence[tuple[str, str]], width: int) -> list[Text]:
    lines: list[Text] = []
    for name, value in figures:
        figure = Text.assemble((name, "dim"), f" {value}" if value else "")
        if lines and lines[-1].cell_len + 3 + figure.cell_len <= width:
            lines[-1].append("   ").append_text(figure)
        else:
            lines.append(figure)
    return lines


def _experts(loads: Sequence[Sequence[float]], width: int, most_lines: int, marks: _Marks) -> list[Text]:
    """A heading, and a cell for every MoE layer: the largest load over the mean as a bar and a figure, the share of
    idle experts. Where there is no room for all, the least balanced."""
    if not loads or most_lines < 2:
        return []
    layers = []
    for layer, load in enumerate(loads, 1):
        mean = sum(load) / max(1, len(load))
        worst = max(load) / mean if mean > 0 else 0.0
        layers.append((layer, worst, sum(tokens == 0 for tokens in load) / max(1, len(load))))
    across = max(1, width // EXPERT_CELL)
    room = across * (most_lines - 1)
    heading = "experts by MoE layer: max/mean, idle"
    if len(layers) > room:
        heading = f"experts (worst {room} of {len(layers)}): max/mean, idle"
        layers = sorted(sorted(layers, key=lambda layer: -layer[1])[:room])
    lines = [Text(heading, "dim")]
    for start in range(0, len(layers), across):
        line = Text()
        for layer, worst, idle in layers[start : start + across]:
            style = "green" if worst < 1.5 else "yellow" if worst < 3 else "red"
            bar = marks.bar((worst - 1) / (EXPERT_FULL - 1), EXPERT_BAR)
            line.append(f"{layer:>3} ", "dim").append(bar, style).append(f" {worst:5.2f}x {idle:4.0%}  ")
        lines.append(line)
    return lines
