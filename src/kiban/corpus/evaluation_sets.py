"""The evaluation sets whose texts the corpus must not hold: those that come with Kiban, and those in a given folder."""

import csv
import json
from importlib import resources
from pathlib import Path

from kiban.artifacts.errors import KibanError

# Sets in a folder of evaluation data that are read.
JCOMMONSENSEQA = "jglue/jcommonsenseqa-v1.3/valid-v1.3.json"
KEICO = "keico/keico_corpus.csv"
KEYS = ("good", "bad", "question")


def evaluation_files(evaluation_data: Path | None) -> list[Path]:
    """The evaluation sets that come with Kiban, and those in the folder `evaluation_data` that are known here.

    Raises:
        KibanError: if that folder has none of them.
    """
    found = sorted((Path(str(resources.files("kiban"))) / "evaluation" / "data").glob("*.jsonl"))
    if evaluation_data is not None:
        own = [evaluation_data / name for name in (JCOMMONSENSEQA, KEICO) if (evaluation_data / name).is_file()]
        if not own:
            raise KibanError(
                f"[corpus] evaluation_data: {evaluation_data} holds neither {JCOMMONSENSEQA} nor {KEICO}; "
                "correct the path"
            )
        found += own
    return found


def texts_of(file: Path) -> list[str]:
    """The texts of an evaluation set that no document of the corpus may hold.

    CSV: the first column. JSON lines: the list under `decontaminate`, or else what stands under `good`, `bad` and
    `question`.

    Raises:
        KibanError: if the file is neither.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return [row[0] for row in list(csv.reader(content.splitlines()))[1:] if row]
        texts: list[str] = []
        for line in content.splitlines():
            record = json.loads(line) if line.strip() else {}
            texts += record.get("decontaminate") or [record[key] for key in KEYS if key in record]
        return texts
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise KibanError(f"{file}: not an evaluation set as CSV or JSON lines ({error}); restore the file") from None
