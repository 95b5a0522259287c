"""What partners have taken back: `withdrawn.jsonl` beside `kiban.toml`, a line for each. Artifacts never change, so
this is a record of its own; the next corpus is built without what stands in it."""

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.corpus.selection import KINDS, selection

WITHDRAWN = "withdrawn.jsonl"


@dataclass(frozen=True)
class Withdrawal:
    """`what` is `source:NAME`, `document:ID`, `uri:ADDRESS` or `host:NAME`; `at` is UTC."""

    what: str
    at: str
    reason: str = ""


def withdrawals(folder: Path) -> list[Withdrawal]:
    """Those of the programme in `folder`, in the order in which they were made.

    Raises:
        KibanError: naming the line that is not one.
    """
    path = folder / WITHDRAWN
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            if line.strip():
                record = Withdrawal(**json.loads(line))
                if record.what.partition(":")[0] not in KINDS:
                    raise ValueError(f"'{record.what}' does not begin with {', '.join(f'{kind}:' for kind in KINDS)}")
                selection([record.what])
                found.append(record)
        except (ValueError, TypeError, AttributeError, KibanError) as error:
            raise KibanError(f"{path}:{number}: not a withdrawal ({error}); correct the line") from None
    return found


def withdraw(folder: Path, what: list[str], reason: str) -> list[Withdrawal]:
    """Adds what is not withdrawn yet; gives what was added."""
    there = withdrawals(folder)
    at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {record.what for record in there}
    added = [Withdrawal(each, at, reason) for each in dict.fromkeys(what) if each not in known]
    if added:
        lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in [*there, *added]]
        write_atomic(folder / WITHDRAWN, "".join(lines))
    return added
