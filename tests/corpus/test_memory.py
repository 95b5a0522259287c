"""Memory does not grow with the input. The whole, ten times over: `python benchmarks/corpus_memory.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_four_times_the_input_takes_the_same_memory(kiban_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "corpus_memory.py", "--repeat", "1", "4", "--results", tmp_path]
    done = subprocess.run([*command, "--sources", "d365", "python", "aozora"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [record] = tmp_path.glob("*.json")
    once, more = json.loads(record.read_text())["builds"]
    assert more["documents_in"] == 4 * once["documents_in"]
    assert more["documents_kept"] == pytest.approx(once["documents_kept"], rel=0.01)  # others are held back
    assert once["peak_bytes"] < 1.5e9
    assert more["peak_bytes"] < 1.1 * once["peak_bytes"]
