"""What commands print for programs."""

import json
from typing import Any


def print_json(value: Any) -> None:
    """Standard output of every `--json`: one JSON value, keys sorted, Japanese as it is."""
    print(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True))


def duration(days: float) -> str:
    """In days, hours or minutes, whichever is at least one."""
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours" if days >= 1 / 24 else f"{1440 * days:.1f} min"


def in_bytes(number: float) -> str:
    """In GB, MB or kB, whichever is at least one."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.0f} B"
