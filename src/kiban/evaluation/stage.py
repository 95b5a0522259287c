"""The stage `evaluation`: an exported model against the suites."""

import os
from pathlib import Path

from pydantic import Field

from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact


def own_suites() -> tuple[str, ...]:
    """Held-back text, and the choices and pairs that come with Kiban."""
    from kiban.evaluation import suite

    found = map(suite.load, suite.names())
    return ("bits-per-character", *(s.name for s in found if s.rule in ("pairs", "choice") and not s.external))


class EvaluationSettings(Settings):
    """`[evaluation]`. Sets of others lie in `$KIBAN_DATA/eval`; a suite whose set is not there is skipped and named.

    `limit` bounds the items of each suite; which ones is the same for every model.
    """

    suites: tuple[str, ...] = Field(default_factory=own_suites)
    limit: int | None = Field(default=None, gt=0)


def evaluation_data() -> Path | None:
    location = os.environ.get("KIBAN_DATA")
    return Path(location) / "eval" if location else None


def _files(settings: EvaluationSettings) -> list[Path]:
    from kiban.evaluation import suite

    chosen = [suite.load(name) for name in settings.suites]
    paths = [suite.SUITES / f"{s.name}.toml" for s in chosen]
    paths += [file for s in chosen for file in s.files(evaluation_data())]
    return [path for path in paths if path.exists()]


@stage("evaluation", inputs=("export", "corpus"), version=2, use="evaluate", external=_files)
def evaluation(
    settings: EvaluationSettings, export: Artifact, corpus: Artifact, out: Path, progress: Progress
) -> Outcome:
    """Scores every suite: results.json, and items.jsonl with a line for every item."""
    from kiban.artifacts.files import write_json
    from kiban.evaluation import run
    from kiban.evaluation.answers import Answers
    from kiban.evaluation.models import LocalModel, locate
    from kiban.evaluation.results import write_items

    answers = Answers(LocalModel(locate(export.path)), out / ".work" / "answers.sqlite")
    plan = run.Plan(settings.suites, settings.limit, data=evaluation_data(), corpus=corpus.path)
    found = run.evaluate(answers, plan, progress)
    write_items(out / "items.jsonl", found.rows)
    write_json(out / "results.json", found.results)
    return Outcome(found.metrics)
