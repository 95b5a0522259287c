"""A model that judges what others wrote. It is believed as far as it agrees: with itself asked in other words, with the
rules of register, and with people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.evaluation import statistics
from kiban.evaluation.answers import Answers
from kiban.evaluation.endpoint import letter_of

# Two wordings of one question, with the letters the other way round: a judge that likes a letter contradicts itself.
_QUESTIONS = (
    "次の指示と回答を読み、回答が指示された言葉づかいと内容を満たしているかを判定してください。\n\n指示：\n{prompt}\n\n回答：\n{written}\n\n"
    "A. 満たしている\nB. 満たしていない\n\n記号だけを答えてください。",
    "以下の回答には、指示に照らして不適切な点がありますか。言葉づかいと内容の両方を見てください。\n\n指示：\n{prompt}\n\n回答：\n{written}\n\n"
    "A. 不適切な点がある\nB. 不適切な点はない\n\n記号だけを答えてください。",
)


def read_labels(path: Path) -> dict[str, bool]:
    """What people said, by the item's id.

    Raises:
        KibanError: if a line lacks an id, or a label that is true or false.
    """
    labels: dict[str, bool] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            if row["label"] not in (True, False) or row["id"] in labels:
                raise KibanError(
                    f"{path}: line {number} has no label that is true or false, or an id for the second time"
                )
            labels[row["id"]] = row["label"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, KibanError):
            raise
        raise KibanError(f"{path}: not JSON lines of id and label ({error})") from None
    return labels


def judge(
    rows: Sequence[Mapping[str, Any]], answers: Answers, labels: Mapping[str, bool], progress: Progress
) -> dict[str, Any]:
    """Judges every row with a text that a model wrote (`written`). A text is good if both wordings say so, bad if both
    say so, else undecided.

    Raises:
        KibanError: if there is no such row, or the judge never decides.
    """
    asked = [row for row in rows if "written" in row and "chosen" not in row]
    if not asked:
        raise KibanError("no item has a text that a model wrote; run a suite that generates, such as register")
    prompts = [question.format(**row) for row in asked for question in _QUESTIONS]
    with progress.task("judging", len(prompts), "questions") as task:
        said = iter(answers.generate(prompts, 16, (), task.advance))
    judged = []
    for row in asked:
        first, second = letter_of(next(said), 2), letter_of(next(said), 2)
        votes = [None if first is None else first == 0, None if second is None else second == 1]
        decided = votes[0] if None not in votes and votes[0] == votes[1] else None
        rule = bool(row["score"]) if "failed" in row else None
        judged.append({"suite": row["suite"], "id": row["id"], "votes": votes, "good": decided, "rule": rule})
    decided_rows = [row for row in judged if row["good"] is not None]
    if not decided_rows:
        raise KibanError(
            f"the judge decided none of {len(judged)} texts: its answers name no letter, or contradict; use another"
        )
    both = [row["votes"] for row in judged if None not in row["votes"]]
    pairs = {
        "with itself, asked the other way round": both,
        "with the rules of register": [[row["good"], row["rule"]] for row in decided_rows if row["rule"] is not None],
        "with people": [[row["good"], labels[row["id"]]] for row in decided_rows if row["id"] in labels],
    }
    agreement = {
        name: {
            "agreement": sum(a == b for a, b in found) / len(found),
            "kappa": statistics.kappa([a for a, _ in found], [b for _, b in found]),
            "n": len(found),
        }
        for name, found in pairs.items()
        if found
    }
    summary = {
        "judge": answers.model.name,
        "judged": len(judged),
        "undecided": len(judged) - len(decided_rows),
        "good": sum(row["good"] for row in decided_rows) / len(decided_rows),
        "agreement": agreement,
        "notes": answers.model.notes,
    }
    return {"summary": summary, "items": judged}
