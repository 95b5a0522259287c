"""The stage `evaluation`: an exported model against the suites."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact

OWN = ("bits-per-character", "keigo", "joshi", "josuushi")


class EvaluationSettings(Settings):
    """`[evaluation]`. Sets of others lie in `$KIBAN_DATA/eval`; a suite whose set is not there is skipped and named.

    `limit` bounds the items of each suite; which ones is the same for every model.
    """

    suites: tuple[str, ...] = OWN
    limit: int | None = Field(default=None, gt=0)


def evaluation_data() -> Path | None:
    location = os.environ.get("KIBAN_DATA")
    return Path(location) / "eval" if location else None


def _files(settings: EvaluationSettings) -> list[Path]:
    from kiban.evaluation import suite

    chosen = [suite.load(name) for name in settings.suites]
    paths = [suite.SUITES / f"{s.name}.toml" for s in chosen] + [s.path(evaluation_data()) for s in chosen]
    return [path for path in paths if path is not None and path.exists()]


@stage("evaluation", inputs=("export", "corpus"), version=1, use="evaluate", external=_files)
def evaluation(
    settings: EvaluationSettings, export: Artifact, corpus: Artifact, out: Path, progress: Progress
) -> Outcome:
    """Scores every suite: results.json, and items.jsonl with a line for every item."""
    import json

    import pyarrow.parquet as pq

    from kiban.artifacts.files import write_json
    from kiban.evaluation import engine, suite
    from kiban.evaluation.scoring import Scorer

    scorer = Scorer.load(export.path)
    metrics: dict[str, Metric] = {}
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    with (out / "items.jsonl").open("w", encoding="utf-8") as lines:
        for name in settings.suites:
            chosen = suite.load(name)
            path = chosen.path(evaluation_data())
            if chosen.rule != "text" and (path is None or not path.exists()):
                skipped[name] = f"needs {chosen.file} in $KIBAN_DATA/eval"
                progress.say(f"evaluation: {name} is skipped: {skipped[name]}")
                continue
            if chosen.rule == "text":
                documents = pq.read_table(
                    corpus.path / "held_back.parquet", columns=["id", "source", "text"]
                ).to_pylist()
                if not documents:
                    skipped[name] = "the corpus holds no document back; raise hold_back in [corpus]"
                    progress.say(f"evaluation: {name} is skipped: {skipped[name]}")
                    continue
                with progress.task(name, len(documents), "documents") as task:
                    result = engine.bits_per_character(scorer, documents, task.advance)
            else:
                assert path is not None
                items = engine.sample(suite.items(chosen, path), settings.limit)
                with progress.task(name, len(items), "items") as task:
                    result = engine.choose(scorer, items, task.advance)
            metrics |= {f"evaluation.{name}.{metric}": value for metric, value in result.metrics.items()}
            results[name] = {
                "measures": chosen.measures,
                "chance": chosen.chance,
                "licence": chosen.licence,
                "source": chosen.source,
                "n": len(result.rows),
                "metrics": {key: value.model_dump(mode="json") for key, value in result.metrics.items()},
                "by": {key: value.model_dump(mode="json") for key, value in result.by.items()},
            }
            for row in result.rows:
                lines.write(json.dumps({"suite": name, **row}, ensure_ascii=False) + "\n")
    write_json(out / "results.json", {"suites": results, "skipped": skipped})
    return Outcome(metrics)
