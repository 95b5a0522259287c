"""A trace of a real training step: whole, of the steps that were asked for, and never in the way of the run."""

import gzip
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kiban.model.transformer import Transformer
from kiban.training.profiler import profiled
from tests.training import tiny


def train(path: Path | None, steps: int, said: list[str], **options: Any) -> list[float]:
    model = Transformer(tiny.config())
    model.init_weights(torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens_BX = torch.randint(0, tiny.VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(2))
    losses = []
    with profiled(path, said.append, **options) as profiler:
        for _ in range(steps):
            loss, _ = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            profiler.step()
    return losses


def events(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = json.loads(content)["traceEvents"]
    assert isinstance(found, list)
    return found


def steps_of(found: list[dict[str, Any]]) -> set[str]:
    return {event["name"] for event in found if re.fullmatch(r"ProfilerStep#\d+", event.get("name", ""))}


@pytest.mark.parametrize("name", ["trace.json.gz", "trace.json"])
def test_the_trace_holds_steps_3_to_5(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    path = tmp_path / "profile" / name
    train(path, 8, said)
    found = events(path)
    assert steps_of(found) == {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}  # counted from 0
    products = [event for event in found if event.get("name") == "aten::mm"]
    assert products and all(event["ph"] == "X" and event["dur"] >= 0 for event in products)
    assert any(event["args"].get("Input Dims") for event in products)
    assert any(event.get("name") == "[memory]" for event in found)
    assert any("backward" in event.get("name", "").lower() for event in found)
    assert any("Optimizer.step#AdamW" in event.get("name", "") for event in found)
    assert not any("Call stack" in event.get("args", {}) for event in found)
    assert said == [f"profile: {path}; open it in ui.perfetto.dev"]
    assert list(path.parent.iterdir()) == [path]


def test_it_changes_no_number(tmp_path: Path) -> None:
    assert train(tmp_path / "trace.json.gz", 8, []) == train(None, 8, [])
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


def test_a_run_that_ends_early_leaves_what_there_is(tmp_path: Path) -> None:
    said: list[str] = []
    train(tmp_path / "trace.json.gz", 3, said)
    assert "ProfilerStep#2" in steps_of(events(tmp_path / "trace.json.gz"))
    train(tmp_path / "none.json.gz", 1, said)
    assert not (tmp_path / "none.json.gz").exists()
    assert said[1:] == ["profile: the run ended before its step 3; there is no trace"]


def test_a_trace_that_cannot_be_written_does_not_stop_training(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "trace.json.gz").mkdir()  # what a rename cannot replace
    assert len(train(tmp_path / "trace.json.gz", 8, said)) == 8
    assert len(said) == 1 and "cannot be written (Is a directory); training goes on" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


def test_a_full_disk_leaves_no_half_of_a_trace(tmp_path: Path) -> None:
    """In a process of its own, where no file may grow beyond 40 kB."""
    script = f"""
import resource, signal
from pathlib import Path
from tests.training.test_profiler import train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, {resource.RLIM_INFINITY}))
said = []
assert len(train(Path({str(tmp_path / "trace.json.gz")!r}), 8, said)) == 8
print(said)
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", script], check=True, cwd=root, capture_output=True, text=True)
    assert done.stdout.count("cannot be written (torch wrote no whole trace; is the disk full?); training goes on") == 1
    assert list(tmp_path.iterdir()) == []
