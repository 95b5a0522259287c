"""A person's hand on the robot: a keyboard, over SSH too, or a gamepad. What it asks for, ten to twenty times a second.

A device that is gone (the line dropped, the cable out) is an error, never a last wish that goes on.
"""

import os
import select
import struct
import sys
import termios
import time
import tty
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from kiban.artifacts.errors import KibanError

Word = Literal["keep", "discard", "quit"]

# A terminal says that a key went down, and again and again while it is held, never that it came up. So each time counts
# for this long: a little more than the pause between two repetitions.
HELD_S = 0.12
LONGEST_ESCAPE_S = 0.03  # between the bytes of one arrow key, over a slow line


@dataclass
class Asked:
    """`way` in [-1, 1] along x, y, z of the world: a share of the fastest action. `closed`: the gripper. `word` about
    the episode, once."""

    way: tuple[float, float, float] = (0.0, 0.0, 0.0)
    closed: bool = False
    word: Word | None = None


class Operator(Protocol):
    """A context: the device is taken at its beginning and given back at its end."""

    help: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def ask(self) -> Asked:
        """What is asked now; never waits. Raises KibanError if the device is gone."""

    def begin(self) -> None:
        """Of an episode: what was asked before it counts no more."""


WAYS = {"w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1)}
ARROWS = {"\x1b[A": "w", "\x1b[B": "s", "\x1b[D": "a", "\x1b[C": "d", "\x1b[5~": "r", "\x1b[6~": "f"}
ARROWS |= {"\x1bOA": "w", "\x1bOB": "s", "\x1bOD": "a", "\x1bOC": "d"}  # a terminal in application mode
WORDS: dict[str, Word] = {"\r": "keep", "\n": "keep", "\x7f": "discard", "\x08": "discard", "q": "quit", "\x03": "quit"}


class Keyboard:
    """The terminal on standard input. Keys are read as they are pressed, and not shown."""

    help = (
        "w/s or arrows: away/towards; a/d or arrows: left/right; r/f or page keys: up/down; space: gripper; "
        "Enter: keep; Backspace: discard; q: quit"
    )

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._until = [0.0, 0.0, 0.0]
        self._sign = [0, 0, 0]
        self._closed = False

    def __enter__(self) -> Self:
        if not os.isatty(self._descriptor):
            raise KibanError("--by keyboard: standard input is no terminal; run it in one (over SSH: `ssh -t`)")
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal is gone, and its settings with it

    def begin(self) -> None:
        self._until, self._closed = [0.0, 0.0, 0.0], False

    def ask(self) -> Asked:
        word = None
        for key in self._keys():
            key = ARROWS.get(key, key)
            if key in WAYS:
                axis, self._sign[axis] = WAYS[key]
                self._until[axis] = time.monotonic() + HELD_S
            elif key == " ":
                self._closed = not self._closed
            word = WORDS.get(key, word)
        now = time.monotonic()
        x, y, z = (float(sign) if now < until else 0.0 for sign, until in zip(self._sign, self._until, strict=True))
        return Asked((x, y, z), self._closed, word)

    def _keys(self) -> list[str]:
        """Those pressed since the last time; an arrow is one key."""
        content = self._read(0.0)
        if content.endswith((b"\x1b", b"\x1b[", b"\x1bO", b"\x1b[5", b"\x1b[6")):
            content += self._read(LONGEST_ESCAPE_S)
        text, keys = content.decode("utf-8", "replace"), []
        while text:
            key = next((escape for escape in ARROWS if text.startswith(escape)), text[0])
            keys.append(key)
            text = text[len(key) :]
        return keys

    def _read(self, wait_s: float) -> bytes:
        content = b""
        while select.select([self._descriptor], [], [], wait_s)[0]:
            try:
                part = os.read(self._descriptor, 1024)
            except OSError:
                part = b""
            if not part:
                raise KibanError("--by keyboard: the terminal is gone; the robot was stopped, the episode is discarded")
            content, wait_s = content + part, 0.0
        return content


# linux/joystick.h: time in ms, value, type, number. Axes run from -32767 to 32767.
EVENT = struct.Struct("<IhBB")
BUTTON, AXIS, INITIAL = 0x01, 0x02, 0x80
FULL, DEAD = 32767, 0.12  # a stick at rest is not quite at zero

# As the kernel's xpad driver numbers them: left stick 0 and 1, right stick 3 and 4; A, B, back and start.
STICKS = {1: (0, -1.0), 0: (1, -1.0), 4: (2, -1.0)}  # axis -> direction, sign: pushing forwards is away, up is up
GRIPPER, DISCARD, QUIT, KEEP = 0, 1, 6, 7


@dataclass
class Gamepad:
    """A gamepad by its events in `path`, such as /dev/input/js0."""

    path: Path
    help: str = (
        "left stick: away/towards, left/right; right stick: up/down; A: gripper; start: keep; B: discard; back: quit"
    )
    _way: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    _closed: bool = False
    _rest: bytes = b""

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise KibanError(
                f"--device {self.path}: cannot be read ({error.strerror}); plug it in, see /dev/input/js*, and "
                "be in the group `input`"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def begin(self) -> None:
        """The sticks stay where they are: what they say is their place."""
        self._closed = False

    def ask(self) -> Asked:
        word: Word | None = None
        for value, kind, number in self._events():
            if kind & ~INITIAL == AXIS and number in STICKS:
                direction, sign = STICKS[number]
                share = max(-1.0, min(1.0, value / FULL))
                self._way[direction] = sign * share if abs(share) > DEAD else 0.0
            elif kind == BUTTON and value:  # not INITIAL: a button held when the device is opened was not pressed
                if number == GRIPPER:
                    self._closed = not self._closed
                words: dict[int, Word] = {KEEP: "keep", DISCARD: "discard", QUIT: "quit"}
                word = words.get(number, word)
        x, y, z = self._way
        return Asked((x, y, z), self._closed, word)

    def _events(self) -> list[tuple[int, int, int]]:
        """(value, type, number) of each since the last time."""
        content = self._rest
        while True:
            try:
                part = os.read(self._descriptor, EVENT.size * 64)
            except BlockingIOError:
                break
            except OSError:
                part = b""
            if not part:
                raise KibanError(
                    f"--device {self.path}: the gamepad is gone; the robot was stopped, the episode is discarded"
                )
            content += part
        whole = len(content) - len(content) % EVENT.size
        self._rest = content[whole:]
        return [event[1:] for event in EVENT.iter_unpack(content[:whole])]
