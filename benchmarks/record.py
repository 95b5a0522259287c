"""What every record says of where its figures come from."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def circumstances() -> dict[str, str]:
    """Hardware, commit, date, command, versions."""
    return {
        "hardware": hardware(),
        "commit": _git("rev-parse", "--short", "HEAD")
        + (" and changes" if _git("status", "--porcelain") != "unknown" else ""),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": shlex.join(["python", *_relative(sys.argv)]),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def hardware() -> str:
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return f"{card.name}, {card.total_memory / 1e9:.0f} GB"
    found = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    model = found[1].strip() if found else platform.processor() or platform.machine()
    memory = re.search(r"MemTotal:\s*(\d+)", _text("/proc/meminfo"))
    return f"{model}, {os.cpu_count()} cores" + (f", {int(memory[1]) / 1e6:.0f} GB" if memory else "")


def write(name: str, figures: dict[str, Any], markdown: str, folder: Path) -> Path:
    """Writes name_HARDWARE_DATE.json and .md; gives the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = re.sub(r"[^a-z0-9]+", "-", figures["hardware"].split(",")[0].lower()).strip("-")
    stem = folder / f"{name}_{machine}_{figures['date'][:10]}"
    stem.with_suffix(".json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    stem.with_suffix(".md").write_text(markdown)
    return stem.with_suffix(".md")


def head(title: str, found: dict[str, str]) -> list[str]:
    return [f"# {title}", "", *(f"- {name}: {found[name]}" for name in ("hardware", "commit", "date", "command")), ""]


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows]] + [""]


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Why a process failed: the last line that names an error, or the last line."""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return next(
        (line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b|\w+(\.\w+)+: ", line)), lines[-1]
    )[:300]


def _relative(arguments: list[str]) -> list[str]:
    return [a.removeprefix(f"{ROOT}/") for a in arguments]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
