"""SIGINT and SIGTERM while a step is on its way: finish the step, save it, then stop."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Raised once the step is saved. `signal` is what stopped the run."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, which is saved")
        self.signal = number


class Interrupts:
    """While it is entered, the first signal is noted in `seen`; a second one raises KeyboardInterrupt at once."""

    def __enter__(self) -> "Interrupts":
        self.seen: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread, which alone gets signals
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen is not None:
            raise KeyboardInterrupt
        self.seen = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
