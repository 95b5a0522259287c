"""Programmes at a size for tests: the recipes' own files with other figures."""

import re
from pathlib import Path

RECIPES = Path(__file__).parent.parent / "recipes"


def small_demo(folder: Path) -> Path:
    """`recipes/demo` in `folder`, so small that it runs in about a minute."""
    text = (RECIPES / "demo" / "kiban.toml").read_text(encoding="utf-8")
    text = _set(text, "source", "megabytes", "0.8")
    text = _set(text, "training", "tokens", '"60k"')
    text = text.replace("[evaluation]\n", "[evaluation]\nlimit = 100\n", 1)
    text = _set(text, "robot", "tasks", '["reach"]\nepisodes = 12\nsteps = 40\nrollouts = 3')
    folder.mkdir(parents=True)
    (folder / "kiban.toml").write_text(text, encoding="utf-8")
    return folder


def small_training(file: Path) -> None:
    """Shortens the training of a programme file, in place."""
    text = file.read_text(encoding="utf-8")
    file.write_text(_set(text, "training", "tokens", '"20k"'), encoding="utf-8")


def _set(text: str, table: str, key: str, value: str) -> str:
    changed, times = re.subn(
        rf"(?ms)^(\[+{table}\]+\n(?:(?!^\[).)*?^{key} = )[^\n]*", lambda match: match[1] + value, text, count=1
    )
    assert times == 1, f"no {table}.{key}"
    return changed
