"""Recording by hand: a keyboard in a real terminal, a gamepad by real event bytes, and what is left after kill -9."""

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.robotics.dataset import Dataset
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.features import RECORDED_AT
from kiban.robotics.inspection import timing
from kiban.robotics.live import action_of, record_live
from kiban.robotics.recording import load
from kiban.robotics.teleoperation import HELD_S, Asked, Gamepad, Keyboard
from tests.commands import KIBAN, error_of


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(the person's end, the program's end) of a terminal."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for descriptor in (ours, theirs):
        try:
            os.close(descriptor)
        except OSError:
            pass


def test_keys_are_read_as_they_are_pressed(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    with Keyboard(theirs) as keyboard:
        assert keyboard.ask() == Asked()
        os.write(ours, b"wd")
        assert keyboard.ask() == Asked((1.0, -1.0, 0.0))
        time.sleep(HELD_S + 0.01)
        assert keyboard.ask() == Asked()  # let go: a terminal never says so
        os.write(ours, b"\x1b[B\x1b[5~ ")
        assert keyboard.ask() == Asked((-1.0, 0.0, 1.0), closed=True)
        os.write(ours, b"\x1b")  # an arrow key in two pieces, over a slow line
        os.write(ours, b"[A")
        assert keyboard.ask().way[0] == 1.0
        os.write(ours, "あ\x7f".encode())
        assert keyboard.ask().word == "discard" and keyboard.ask().word is None
        os.write(ours, b"\r")
        assert keyboard.ask().word == "keep"
        keyboard.begin()
        assert keyboard.ask() == Asked()
        os.write(ours, b"q")
        assert keyboard.ask().word == "quit"
    assert termios.tcgetattr(theirs) == before


def test_a_terminal_that_is_gone_stops_the_robot(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with Keyboard(theirs) as keyboard:
        os.write(ours, b"w")
        assert keyboard.ask().way[0] == 1.0
        os.close(ours)
        with pytest.raises(KibanError, match="the terminal is gone; the robot was stopped"):
            keyboard.ask()


AXIS, BUTTON, INITIAL = 2, 1, 0x80


def event(value: int, kind: int, number: int) -> bytes:
    """As linux/joystick.h has it."""
    return struct.pack("<IhBB", 123456, value, kind, number)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "js0")
    return tmp_path / "js0"


def test_a_gamepads_events_are_followed(fifo: Path) -> None:
    reader = Gamepad(fifo)
    with reader as gamepad, fifo.open("wb", buffering=0) as device:
        device.write(event(0, AXIS | INITIAL, 1) + event(1, BUTTON | INITIAL, 7))
        assert gamepad.ask() == Asked()  # a button held at the beginning was not pressed
        device.write(event(-32767, AXIS, 1) + event(16384, AXIS, 0) + event(-9000, AXIS, 4))
        asked = gamepad.ask()
        assert asked.way == pytest.approx((1.0, -0.5, 0.27), abs=0.01)
        assert gamepad.ask() == asked  # a stick that is held says nothing more
        device.write(event(900, AXIS, 1) + event(1, BUTTON, 0) + event(0, BUTTON, 0))
        asked = gamepad.ask()
        assert asked.way[0] == 0.0 and asked.closed  # at rest, not quite at zero
        whole = event(1, BUTTON, 7)
        device.write(whole[:5])
        assert gamepad.ask().word is None
        device.write(whole[5:])
        assert gamepad.ask().word == "keep"
        device.close()
        with pytest.raises(KibanError, match="js0: the gamepad is gone; the robot was stopped"):
            gamepad.ask()


def test_whatever_is_asked_lies_within_the_actions_bounds(embodiment: Embodiment) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = action_of(Asked(tuple(rng.normal(0, 3, 3)), bool(rng.integers(2))), embodiment)
        assert (action >= embodiment.action.lower).all() and (action <= embodiment.action.upper).all()
    assert action_of(Asked((1.0, -0.5, 0.0)), embodiment).tolist() == [0.02, -0.01, 0.0, 0.08]


def test_episodes_are_recorded_with_a_gamepad(fifo: Path, tmp_path: Path, embodiment: Embodiment) -> None:
    """Kept, discarded and recorded again, then the gamepad is pulled out: what was kept stays."""
    shown: list[float] = []

    def show(moment: object) -> None:
        shown.append(time.monotonic())
        if len(shown) in script:
            device.write(script[len(shown)])
        if len(shown) == 24:
            device.close()

    script = {
        1: event(-32767, AXIS, 1),
        8: event(1, BUTTON, 1),  # discard
        16: event(1, BUTTON, 7),  # keep
    }
    wanted = [("push", number, tmp_path / f"push-{number}.zip") for number in range(2)]
    gamepad = Gamepad(fifo)
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # a writer needs a reader before the gamepad is taken
    device = fifo.open("wb", buffering=0)
    with pytest.raises(KibanError, match="the gamepad is gone"):
        record_live(embodiment, wanted, 0, False, gamepad, show)
    os.close(descriptor)
    assert [path.exists() for _, _, path in wanted] == [True, False]
    episode, notes = load(wanted[0][2])
    assert notes == {"attempts": 2} and len(episode) == 8
    actions = np.array(episode.table["action"].to_pylist())
    assert (actions[:, 0] == np.float32(0.02)).all()
    times = np.array(episode.table[RECORDED_AT].to_pylist())
    assert (np.diff(times) > 0.02).all() and abs(times[0] - time.time()) < 60


class Person:
    """The command in a terminal of its own, as over SSH."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [KIBAN, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, holds: Callable[[str], bool], seconds: float = 60.0) -> None:
        """Reads what is shown until something holds of it."""
        deadline = time.monotonic() + seconds
        while not holds(self.seen):
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._ours, 65536).decode("utf-8", "replace")
                except OSError:  # the command has ended
                    break
            elif self.process.poll() is not None:
                break

    def end(self) -> int:
        self.until(lambda seen: False)
        os.close(self._ours)
        return self.process.wait(timeout=60)


def test_a_person_records_in_a_terminal_and_kill_costs_the_episode_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "by-hand"
    arguments = ("robot", "collect", folder, "--by", "keyboard", "--task", "push", "--episodes", "2")
    person = Person(*arguments)
    person.until(lambda seen: "push 0:" in seen and "▀" in seen)
    person.press("wwd")
    person.until(lambda seen: "0.6 s" in seen or "0.7 s" in seen or "0.8 s" in seen or "0.9 s" in seen)
    person.press("\r")
    person.until(lambda seen: "push 1:" in seen)
    person.press("ww")
    os.kill(person.process.pid, signal.SIGKILL)
    person.end()
    kept = tmp_path / ".by-hand.recording/episodes"
    assert not folder.exists() and [path.name for path in kept.glob("*.zip")] == ["push-000000.zip"]
    first = (kept / "push-000000.zip").read_bytes()

    assert "a recording with seed 0 lies there unfinished, this one has 1" in error_of(*arguments, "--seed", "1")
    person = Person(*arguments)
    person.until(lambda seen: "push 1:" in seen)
    assert "push 0:" not in person.seen and (kept / "push-000000.zip").read_bytes() == first
    person.press("r")
    person.until(lambda seen: any(f"{tenths / 10} s" in seen for tenths in range(5, 10)))
    person.press("\r")
    assert person.end() == 0, person.seen[-2000:]
    assert "2 episodes" in person.seen and "time: " in person.seen
    dataset = Dataset(folder)
    assert len(dataset.episodes) == 2 and dataset.terms is not None and dataset.terms.made["by"] == "keyboard"
    assert (np.abs(dataset.frames("action")[:, :3]).max(axis=1) > 0).any()
    timed = timing(dataset)
    assert timed is not None and 5 < timed.real_fps < 21
    assert [path.name for path in tmp_path.iterdir()] == ["by-hand"]


def test_devices_that_are_not_there_are_named(tmp_path: Path) -> None:
    ask = ("robot", "collect", tmp_path / "new", "--by")
    assert "standard input is no terminal" in error_of(*ask, "keyboard")
    assert "js9: cannot be read (No such file or directory); plug it in" in error_of(
        *ask, "gamepad", "--device", tmp_path / "js9"
    )
