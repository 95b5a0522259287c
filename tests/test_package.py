"""What holds for the package as a whole."""

import subprocess
import sys
import time
from pathlib import Path

from tests.commands import kiban

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numba", "mujoco", "pyarrow", "transformers", "fastapi"}


def test_import_is_light() -> None:
    code = "import time; t = time.perf_counter(); import kiban; print(time.perf_counter() - t)"
    seconds = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))
    assert seconds < 0.3


def test_the_stage_graph_imports_nothing_heavy() -> None:
    """A run with nothing to do must not pay for PyTorch."""
    code = f"import sys, kiban.cli.main; print({HEAVY!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_every_command_has_help_with_an_example() -> None:
    start = time.monotonic()
    commands = _commands(kiban("--help").stdout)
    assert len(commands) >= 12, commands
    for command in commands:
        text = kiban(command, "--help").stdout
        below = _commands(text)
        for name in below:
            assert "Example: kiban" in kiban(command, name, "--help").stdout, f"{command} {name}"
        assert below or "Example: kiban" in text, command
    assert time.monotonic() - start < 120


def _commands(text: str) -> list[str]:
    lines = text.partition("Commands:")[2].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].isalpha()]


def test_nothing_is_pickled() -> None:
    guilty = [
        path
        for path in (ROOT / "src").rglob("*.py")
        if "import pickle" in path.read_text(encoding="utf-8") or "torch.load(" in path.read_text(encoding="utf-8")
    ]
    assert guilty == []
