"""The live view, as it comes out on consoles of several sizes, and once on a real terminal."""

import fcntl
import io
import math
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kiban.artifacts import progress as progress_module
from kiban.artifacts.progress import Progress
from kiban.training.live import CURVE_POINTS, Curve, View, live

BRAILLE = re.compile("[\u2801-\u28ff]")


def record(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": 4096 * step,
        "loss": 2 + 7 * math.exp(-step / 50),
        "lr": 2.1e-4,
        "grad_norm": 0.831,
        "tokens_per_s": 12_345.6,
        "mfu": 0.412,
        "seconds": 0.3 * step,
        "expert_load_max": 2.0,
        "memory_bytes": 1_234_567_890,
        "expert_load": [[4, 4, 4, 4], [10, 6, 0, 0]],
    } | changes


def shown(view: View, width: int, height: int = 24, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(view)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    lines = file.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) < height and all(cell_len(line) <= width for line in lines)
    return lines


def viewed(steps: int, of: int = 200, **changes: Any) -> View:
    view = View(of)
    for step in range(1, steps + 1):
        view.update(record(step, **changes))
    return view


@pytest.mark.parametrize("width", [40, 80, 132])
def test_all_figures_are_there(width: int) -> None:
    view = viewed(150)
    view.saved(120)
    lines = shown(view, width)
    text = "\n".join(lines)
    assert lines[0].startswith("training ⣿") and " 75%" in lines[0]
    for expected in (
        "150/200 steps",
        "steps/s",
        "left",
        "loss 2.3485",
        "lr 2.10e-04",
        "grad norm 0.831",
        "MFU 41.2%",
        "tokens 614.40k",
        "tokens/s 12.35k",
        "memory 1.23 GB",
        "checkpoint 120, 0:00 ago",
        "1         1.00x   0%",
        "2 ⣿⣿⣿     2.50x  50%",
    ):
        assert expected in text, expected


def test_the_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    curve = [line[8:] for line in shown(viewed(150), 80)[1:9]]
    assert BRAILLE.match(curve[0]) and not curve[0][40:].strip()
    assert BRAILLE.match(curve[-1][-1]) and not curve[-1][:30].strip()
    firsts = [min(found.start() for found in BRAILLE.finditer(line)) for line in curve]
    assert firsts == sorted(firsts)


def test_what_the_log_may_also_hold_is_shown() -> None:
    text = "\n".join(shown(viewed(3, mtp_loss=5.25, balance_loss=1.0123, max_logit=12.5, validation_loss=4.5), 80))
    for expected in ("mtp loss 5.25", "balance loss 1.012", "max logit 12.5", "validation loss 4.5"):
        assert expected in text


def test_before_the_first_step_and_after_a_resume() -> None:
    assert shown(View(200), 80) == [shown(View(200), 80)[0], "the first step is on its way"]
    view = View(200, [record(step) for step in range(1, 101)])
    text = "\n".join(shown(view, 80))
    assert "100/200 steps" in text and "loss 2.9473" in text and "steps/s" not in text  # nothing was done yet
    assert len(BRAILLE.findall(text)) > 60


def test_only_one_step_or_one_layer_or_none() -> None:
    assert any(BRAILLE.search(line) for line in shown(viewed(1, of=1), 80)[1:9])
    assert not any("experts" in line for line in shown(viewed(5, expert_load=[]), 80))
    view = View(3)
    view.update({"step": 1, "loss": 3.0})  # a log of before
    assert shown(view, 80)[-1] == "loss 3.0000"
    assert "1         0.00x 100%" in "\n".join(shown(viewed(2, expert_load=[[0, 0]]), 80))


def test_what_is_no_number_leaves_a_gap() -> None:
    view = View(100)
    for step in range(1, 81):
        view.update(record(step, loss=math.nan if 30 <= step <= 50 else 3.0 + step % 2))
    columns = ["".join(column) for column in zip(*(line[8:].ljust(72) for line in shown(view, 80)[1:9]), strict=True)]
    assert not any(column.strip() for column in columns[29:43]) and columns[20].strip() and columns[60].strip()
    text = "\n".join(shown(viewed(5, loss=math.nan, grad_norm=math.inf, mfu=math.nan, tokens_per_s=math.inf), 80))
    assert "loss nan" in text and "grad norm inf" in text and "tokens/s inf" in text
    assert not BRAILLE.search(text.split("\n", 1)[1].split("experts")[0])  # a curve of nothing is none


def test_more_layers_than_room_shows_the_least_balanced() -> None:
    loads = [[10 + layer] + [10] * 15 for layer in range(58)]
    lines = shown(viewed(5, expert_load=loads), 80)
    (heading,) = [line for line in lines if "experts" in line]
    number = int(re.search(r"worst (\d+) of 58", heading)[1])  # type: ignore[index]
    found = [int(n) for n in re.findall(r"^ *(\d+) .*?x", "\n".join(lines[lines.index(heading) + 1 :]), re.M)]
    assert 0 < number < 58 and found[0] == 58 - number + 1


@pytest.mark.parametrize("height", [2, 3, 5, 8, 12, 60])
@pytest.mark.parametrize("width", [10, 20, 40, 80])
def test_any_size_of_terminal(width: int, height: int) -> None:
    assert shown(viewed(50), width, height)[0].startswith("training")


def test_without_utf8_it_is_ascii() -> None:
    text = "\n".join(shown(viewed(150), 80, encoding="ascii"))
    assert "training ###" in text and "****" in text and "2 ###     2.50x" in text


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200), st.integers(1, 30), st.integers(2, 9))
def test_any_losses_can_be_drawn(losses: list[float], width: int, rows: int) -> None:
    view = View(1000)
    for step, loss in enumerate(losses, 1):
        view.update(record(step, loss=loss))
    shown(view, width + 8, rows + 8)


def test_a_long_curve_is_bounded_and_means_what_it_was_given() -> None:
    curve, number = Curve(), 5 * CURVE_POINTS + 3
    for i in range(number):
        curve.add(float(i))
    assert len(curve._points) <= CURVE_POINTS
    assert sum(count for _, count in curve._points) == number
    columns = [value for value in curve.columns(100) if value is not None]
    assert len(columns) == 100 and columns == sorted(columns)
    assert columns[0] < number * 0.01 and columns[-1] > number * 0.99


def test_drawing_costs_less_than_5_ms() -> None:
    view = View(1_000_000, [{"step": step, "loss": 2 + 1 / step} for step in range(1, 10_001)])
    view.update(record(10_001, expert_load=[[7] * 256] * 58))
    console = Console(file=io.StringIO(), width=120, height=40, force_terminal=True)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        console.print(view)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005


def test_without_a_terminal_it_is_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress_module, "PLAIN_EVERY_S", 0.0)
    with live(Progress(), 20, [record(step) for step in range(1, 6)]) as view:
        for step in range(6, 9):
            view.update(record(step))
            view.saved(step)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("training: 8/20 steps, ") and lines[-1].endswith("left, loss 7.965")
    assert not BRAILLE.search("".join(lines))


def test_a_quiet_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with live(Progress(quiet=True), 20) as view:
        view.update(record(1))
    assert capsys.readouterr() == ("", "")


SCRIPT = """
import time
from kiban.artifacts.progress import Progress
from kiban.training.live import live
from tests.training.test_live import record
progress = Progress()
with live(progress, 60) as view:
    for step in range(1, 46):
        view.update(record(step))
        if step == 20:
            progress.say("a checkpoint is damaged")
            print("printed by another library")
            with progress.task("validation", 2, "batches") as task:
                task.advance()
            view.saved(20)
        time.sleep(0.04)
    assert not progress.free_terminal
assert progress.free_terminal or not progress.console.is_interactive
with progress.task("after", 1, "things") as task:
    assert (progress._bars is not None) == progress.console.is_interactive
"""


def on_a_terminal(rows: int, columns: int, term: str) -> str:
    """What SCRIPT writes to a terminal of that size."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": term, "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            os.environ.pop(name, None)
        os.chdir(Path(__file__).parent.parent.parent)
        time.sleep(0.2)  # until the terminal has its size
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    written = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    assert os.waitpid(child, 0)[1] == 0, written.decode()
    os.close(terminal)
    return written.decode()


def test_on_a_real_terminal() -> None:
    written = on_a_terminal(24, 80, "xterm-256color")
    frames = written.count("experts by MoE layer")
    assert 3 <= frames <= 12  # 1.8 seconds, twice a second, and once for each thing that was said
    for expected in ("grad norm", "12.35k", "2.50x", "a checkpoint is damaged", "printed by another library", "ago"):
        assert expected in written
    assert re.search(r"training: 45/60 steps, loss \d\.\d{4} in 0:0\d", written.splitlines()[-1] + written[-400:])
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is back


def test_a_dumb_terminal_gets_lines() -> None:
    written = on_a_terminal(24, 80, "dumb")
    assert "\x1b" not in written and "training: 45/60 steps" in written and not BRAILLE.search(written)
