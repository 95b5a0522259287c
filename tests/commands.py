"""Running Kiban as a person does: the installed command, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KIBAN = str(Path(sys.executable).with_name("kiban"))


def kiban(
    *arguments: str | Path,
    cwd: Path | None = None,
    code: int | None = 0,
    stdin: str = "",
    timeout: float = 900,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `kiban ARGUMENTS`; asserts its exit code unless `code` is None."""
    done = subprocess.run(
        [KIBAN, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def kiban_json(*arguments: str | Path, **options: Any) -> Any:
    return json.loads(kiban(*arguments, **options).stdout)


def error_of(*arguments: str | Path, **options: Any) -> str:
    """The one line that a wrong call prints; asserts that it is one line, without a traceback, and exit code 2."""
    done = kiban(*arguments, code=2, **options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("kiban: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0].removeprefix("kiban: ")
