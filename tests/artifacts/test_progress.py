"""What progress says where there is no terminal."""

import re
from types import SimpleNamespace

import pytest

from kiban.artifacts import progress as progress_module
from kiban.artifacts.progress import Progress


def test_lines_on_the_way_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 20.0, 20.0, 20.0, 25.0, 25.0, 40.0, 40.0, 40.0])
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(seconds, 40.0)))
    with Progress().task("training", 40, "steps") as task:
        task.note("loss 2.000")
        task.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 10/40 steps, 0.50 steps/s, 1:00 left, loss 2.000"
    assert re.fullmatch(r"training: 10/40 steps, 0\.\d\d steps/s, loss 2\.000 in 0:\d\d", lines[1])
