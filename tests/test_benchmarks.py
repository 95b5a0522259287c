"""The benchmarks keep working. What they measure here means nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def bench(script: str, results: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments, "--results", results]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (record,) = results.glob("*.json")
    assert record.with_suffix(".md").read_text().startswith(("# Training on", "# The corpus room"))
    found: dict[str, Any] = json.loads(record.read_text())
    return found


SCRIPTS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "ArgumentParser" in path.read_text("utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_runs_as_the_readme_calls_it_and_says_what_it_takes(script: str, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
    assert f"`{script}.py`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_training_on_the_cpu(tmp_path: Path) -> None:
    arguments = "--contestants kiban --presets nano --dtypes float32 --batch 1x32 --rounds 1 --steps 2 --threads 1"
    found = bench("training_cpu.py", tmp_path, *arguments.split())
    (setting,) = found["settings"]
    ours = setting["contestants"]["kiban"]
    assert ours["tokens_per_s"]["median"] > 0 and 0 < ours["mfu"]["median"] < 2
    (turn,) = ours["turns"]
    assert len(turn["losses"]) == 4 and turn["losses"][-1] < turn["losses"][0]
    assert found["commit"] and found["hardware"] and found["command"].startswith("python benchmarks/training_cpu.py")


def test_training_on_a_gpu(tmp_path: Path) -> None:
    found = bench("training_gpu.py", tmp_path, "--device", "cpu", "--small")
    ours = [case for case in found["cases"] if case["who"] == "kiban"]
    assert {case["shape"] for case in ours} == {"dense", "moe"}
    assert all("error" not in case and case["losses"][-1] < case["losses"][0] for case in ours), ours


def test_a_gpu_record_is_left_without_time(tmp_path: Path) -> None:
    found = bench("training_gpu.py", tmp_path, "--device", "cpu", "--small", "--budget", "1")
    assert found["cases"] and all("error" in case for case in found["cases"])


def test_the_corpus_room(kiban_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("hojichar")
    found = bench("corpus.py", tmp_path, "--contestants", "kiban", "--rounds", "1", "--sources", "vite", "vue")
    assert set(found["tasks"]) == {"minhash", "swallow", "fineweb2", "words"} and set(found["chain"]) == {
        "kiban",
        "swallow-v1",
    }
    turns = [*(turn for task in found["tasks"].values() for turns in task["contestants"].values() for turn in turns)]
    assert all(turn["mb_per_s"] > 1 for turn in turns), turns
    assert found["chain"]["kiban"][0]["documents_kept"] > 50
