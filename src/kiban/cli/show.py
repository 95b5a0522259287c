"""What commands print for programs."""

import json
from typing import Any


def print_json(value: Any) -> None:
    """Standard output of every `--json`: one JSON value, keys sorted, Japanese as it is."""
    print(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True))
