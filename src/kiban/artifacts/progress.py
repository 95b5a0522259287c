"""Progress of long work: what is done, how fast, how long it still takes. Bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bars

PLAIN_EVERY_S = 15.0


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}{letter}"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


class Task:
    """One piece of long work. Call `advance` or `update`; `note` adds a word such as the present loss."""

    def __init__(self, progress: "Progress", label: str, total: float | None, unit: str) -> None:
        self._progress, self._label, self._total, self._unit = progress, label, total, unit
        self._done = 0.0
        self._first: float | None = None  # what a resumed task had done at its first report: no part of the rate
        self._note = ""
        self._start = time.monotonic()
        self._said = self._start
        self._bar = progress._bars.add_task(label, total=total, figures="") if progress._bars else None

    def advance(self, n: float = 1) -> None:
        self._first = 0.0 if self._first is None else self._first
        self._report(self._done + n)

    def update(self, done: float) -> None:
        self._first = done if self._first is None else self._first
        self._report(done)

    def note(self, text: str) -> None:
        self._note = text

    def _figures(self, left: bool = True) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - (self._first or 0.0)) / seconds
        of = f"/{count(self._total)}" if self._total else ""
        parts = [f"{count(self._done)}{of} {self._unit}", f"{count(rate)} {self._unit}/s"]
        if left and self._total and rate > 0:
            parts.append(f"{clock((self._total - self._done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _report(self, done: float) -> None:
        self._done = done
        if self._progress._bars is not None and self._bar is not None:
            self._progress._bars.update(self._bar, completed=done, figures=self._figures())
        elif time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._progress.say(f"{self._label}: {self._figures()}")

    def _close(self) -> None:
        if self._progress._bars is not None and self._bar is not None:
            self._progress._bars.remove_task(self._bar)
        seconds = time.monotonic() - self._start
        if seconds > 1:
            self._progress.say(f"{self._label}: {self._figures(left=False)} in {clock(seconds)}")


class Progress:
    """Where stages report to. `quiet` says nothing at all (for programs that read our JSON)."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bars: Bars | None = None
        self._drawing = False

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        """A task of `total` units (None where that is not known before). Tasks may be nested."""
        outermost = self.free_terminal
        if outermost:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            self._bars = Bars(*columns, console=self.console, transient=True)
            self._bars.start()
        task = Task(self, label, total, unit)
        try:
            yield task
        finally:
            task._close()
            if outermost and self._bars is not None:
                self._bars.stop()
                self._bars = None

    @property
    def free_terminal(self) -> bool:
        """Whether there is a terminal that can be drawn on (not TERM=dumb), and nothing is drawn on it yet."""
        return self.console.is_interactive and not self.console.quiet and self._bars is None and not self._drawing

    @contextmanager
    def drawing(self, draw: Callable[[], RenderableType], per_second: float) -> Iterator[None]:
        """Keeps what `draw` gives at the foot of the terminal, drawn anew so often. What is said scrolls above it, as
        do tasks meanwhile, in plain lines. It vanishes at the end."""
        assert self.free_terminal
        self._drawing = True
        try:
            with Live(get_renderable=draw, console=self.console, refresh_per_second=per_second, transient=True):
                yield
        finally:
            self._drawing = False

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
