"""What trackers get, read back with TensorBoard's own reader and from a plug with wandb's calls; and what they may not
do: stop a run, call home, or say a secret."""

import json
import math
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kiban.artifacts.errors import KibanError
from kiban.training.trackers import Plug, TensorBoard, Trackers, reason

PLUG = """
import json, os
from pathlib import Path

class Run:
    id = "r1"

    def __init__(self, given):
        self.file = Path(given["dir"], "plugged.jsonl").open("a")
        self.write(init=given, mode=os.environ["WANDB_MODE"])

    def write(self, **line):
        self.file.write(json.dumps(line) + "\\n")
        self.file.flush()

    def log(self, record, step=None):
        self.write(record=record, step=step)

    def finish(self):
        self.write(finished=True)

def init(project=None, name=None, dir=None, config=None, id=None, resume=None):
    return Run({"project": project, "name": name, "dir": dir, "config": config, "id": id, "resume": resume})
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "SWANLAB_MODE"):
        monkeypatch.setenv(variable, "")  # so that it is put back
        monkeypatch.delenv(variable)


def record(step: int) -> dict[str, float]:
    return {"step": step, "tokens": 128 * step, "loss": 6.0 / step, "lr": 1e-3}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def test_tensorboard_reads_every_point(tmp_path: Path) -> None:
    with Trackers({"TensorBoard": TensorBoard(tmp_path, 0)}, pytest.fail) as trackers:
        for step in range(1, 21):
            trackers.log(record(step) | {"expert_load": [[1, 2]]}, step)
            assert len(scalars(tmp_path, "training/loss")) == step  # seen while the run goes on
    assert scalars(tmp_path, "training/loss") == [(step, pytest.approx(6.0 / step)) for step in range(1, 21)]
    assert scalars(tmp_path, "training/tokens")[-1] == (20, 2560)
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["training/tokens", "training/loss", "training/lr"]


def test_tensorboard_shows_what_is_no_number(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, 0)
    board.log({"loss": math.nan, "lr": math.inf}, 1)
    board.close()
    assert math.isnan(scalars(tmp_path, "training/loss")[0][1]) and scalars(tmp_path, "training/lr") == [(1, math.inf)]


def test_a_killed_run_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    """Killed after step 17, in the middle of a record; its last checkpoint was after step 12."""
    script = f"""
import os, signal
from pathlib import Path
from kiban.training.trackers import TensorBoard
board = TensorBoard(Path({str(tmp_path)!r}), 0)
for step in range(1, 18):
    board.log({{"loss": -1.0 if step > 12 else float(step)}}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert [step for step, _ in scalars(tmp_path, "training/loss")] == list(range(1, 18))
    (left,) = tmp_path.iterdir()
    left.write_bytes(left.read_bytes()[:-7])
    board = TensorBoard(tmp_path, 12)
    for step in range(13, 21):
        board.log({"loss": float(step)}, step)
    board.close()
    assert scalars(tmp_path, "training/loss") == [(step, float(step)) for step in range(1, 21)]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(KibanError, match=r"pip install 'kiban\[tensorboard\]'"):
        TensorBoard(tmp_path / "tensorboard", 0)
    assert not (tmp_path / "tensorboard").exists()


def test_a_full_disk_drops_tensorboard_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, where no file may grow beyond 3000 bytes."""
    said = tmp_path / "said"
    script = f"""
import resource, signal
from pathlib import Path
from kiban.training.trackers import TensorBoard, Trackers
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, {resource.RLIM_INFINITY}))
said, got = [], []
class Other:
    def log(self, record, step): got.append(step)
    def close(self): got.append("closed")
board = TensorBoard(Path({str(tmp_path / "tensorboard")!r}), 0)
with Trackers({{"TensorBoard": board, "other": Other()}}, said.append) as trackers:
    for step in range(1, 201):
        trackers.log({{"loss": 1.0}}, step)
assert got == [*range(1, 201), "closed"]
Path({str(said)!r}).write_text("\\n".join(said))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert said.read_text() == "TensorBoard: OSError: File too large; it gets no more figures, training goes on"
    assert len(scalars(tmp_path / "tensorboard", "training/loss")) > 20


def test_a_plug_gets_what_wandb_would(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUG)
    for steps in (0, 2):
        plug = Plug(str(file), "run", tmp_path / "out", {"seed": 7}, steps)
        with Trackers({"mine": plug}, pytest.fail) as trackers:
            for step in (steps + 1, steps + 2):
                trackers.log(record(step), step)
    lines = [json.loads(line) for line in (tmp_path / "out" / "plugged.jsonl").read_text().splitlines()]
    given = {"project": "kiban", "name": "run", "dir": str(tmp_path / "out"), "config": {"seed": 7}}
    assert lines[0] == {"init": given | {"id": None, "resume": "never"}, "mode": "offline"}
    assert lines[1] == {"record": {"tokens": 128, "loss": 6.0, "lr": 1e-3}, "step": 1}
    assert lines[3] == {"finished": True}
    assert lines[4] == {"init": given | {"id": "r1", "resume": "allow"}, "mode": "offline"}
    assert [line.get("step") for line in lines] == [None, 1, 2, None, None, 3, 4, None]


def test_a_plug_by_its_module_name_and_with_fewer_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kiban_test_plug.py").write_text(
        PLUG + "\n_init = init\ndef init(project, dir): return _init(dir=dir)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")  # who asks for it gets it
    Plug("kiban_test_plug", "run", tmp_path / "out", {}, 0).close()
    line = json.loads((tmp_path / "out" / "plugged.jsonl").read_text().splitlines()[0])
    assert line["mode"] == "online" and line["init"]["name"] is None


def test_a_plug_with_another_word_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        PLUG + "\n_init = init\ndef init(log_dir, **all): return _init(dir=log_dir, **all)\n"
    )
    Plug(str(tmp_path / "mine.py"), "run", tmp_path / "out", {}, 0).close()
    assert (tmp_path / "out" / "plugged.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("there_is_none", None, "there is no module there_is_none; install it"),
        ("none.py", None, "none.py: there is no such file"),
        ("needs.py", "import there_is_none", "there is no module there_is_none;"),
        ("json", None, "has no init"),
        ("broken.py", "def", r"cannot be imported \(SyntaxError"),
        ("odd.py", "def init(): return 3", "gives no run with log and finish"),
        ("fails.py", "def init(**all): raise RuntimeError('not\\nlogged in')", r"\(RuntimeError: not logged in\)"),
    ],
)
def test_a_plug_that_does_not_fit_is_refused(tmp_path: Path, name: str, text: str | None, expected: str) -> None:
    module = str(tmp_path / name) if name.endswith(".py") else name
    if text is not None:
        Path(module).write_text(text)
    with pytest.raises(KibanError, match=expected) as caught:
        Plug(module, "run", tmp_path / "out", {}, 0)
    assert "\n" not in str(caught.value)


def test_a_plug_that_fails_in_mid_run_is_said_once(tmp_path: Path) -> None:
    class Failing:
        def log(self, record: dict[str, float], step: int) -> None:
            if step == 3:
                raise ConnectionError("no route to host")

        def close(self) -> None:
            pytest.fail("it was dropped")

    class Late:
        def log(self, record: dict[str, float], step: int) -> None: ...

        def close(self) -> None:
            raise TimeoutError

    said: list[str] = []
    with Trackers({"failing": Failing(), "late": Late()}, said.append) as trackers:
        for step in range(1, 10):
            trackers.log(record(step), step)
    assert said == [
        "failing: ConnectionError: no route to host; it gets no more figures, training goes on",
        "late: TimeoutError; its last figures may be missing",
    ]


def test_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert reason(ValueError("bad key 0123456789abcdef")) == "ValueError: bad key ***"
    assert reason(OSError("at https://me:word@example.com/x")) == "OSError: at https://***@example.com/x"
    assert len(reason(ValueError("a" * 10_000))) < 300
