"""The log of a run: a JSON line a step, flushed as it is written. What is no finite number is null there.

A run that goes on from a checkpoint first cuts the lines after it, so that in the end there is one line for each step,
the same as if nothing had happened.
"""

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic


class StepLog:
    """Appends to `path`, after the lines of the first `steps` steps. `records` holds all of them. With `writes` false
    (on all ranks but one) the file stays as it is.

    Raises:
        KibanError: if lines of those steps are missing.
    """

    def __init__(self, path: Path, steps: int, writes: bool = True) -> None:
        self.records = _whole_lines(path)[:steps]
        if [record["step"] for record in self.records] != list(range(1, steps + 1)):
            raise KibanError(
                f"{path}: does not hold the lines of steps 1 to {steps}, after which the checkpoint goes on; "
                "restore it, or delete the checkpoints to start anew"
            )
        if writes:
            write_atomic(path, "".join(map(_line, self.records)))
        self._file = Path(path if writes else os.devnull).open("a", encoding="utf-8")
        self._writes = writes

    def append(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._file.write(_line(record))
        self._file.flush()

    def sync(self) -> None:
        """On disk: what a checkpoint relies on."""
        if self._writes:
            os.fsync(self._file.fileno())

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _line(record: dict[str, Any]) -> str:
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(values, allow_nan=False) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut off
            break
        if not isinstance(record, dict) or "step" not in record:
            break
        records.append({key: math.nan if value is None else value for key, value in record.items()})
    return records
