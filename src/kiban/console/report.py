"""`report.html`: the whole programme in one file that opens offline.

The page makes no request: style, script, drawings and films are in it, and its content security policy forbids the
rest. Whatever comes from data (titles, sentences, names) is escaped by the template or by `Markup.format`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kiban import __version__
from kiban.artifacts.files import write_atomic
from kiban.artifacts.store import Artifact
from kiban.console import picture
from kiban.console.figures import KINDS, summary, title
from kiban.console.labels import obligation, residency, uses
from kiban.console.page import render
from kiban.console.sections.corpus import corpus
from kiban.console.sections.evaluation import evaluation
from kiban.console.sections.milestones import milestones
from kiban.console.sections.rights import rights
from kiban.console.sections.robot import robot
from kiban.console.sections.training import tokenizer, training
from kiban.console.words import Both, duration, quantity

CONTENTS = (
    ("summary", Both("概要", "Summary")),
    ("corpus", Both("コーパス", "Corpus")),
    ("tokenizer", Both("トークナイザー", "Tokenizer")),
    ("training", Both("学習", "Training")),
    ("evaluation", Both("評価", "Evaluation")),
    ("robot", Both("ロボット", "Robot")),
    ("milestones", Both("マイルストーン", "Milestones")),
    ("lineage", Both("系譜", "Lineage")),
    ("rights", Both("権利", "Rights")),
)


def write(programme_name: str, artifacts: Sequence[Artifact], to: Path) -> Path:
    """Writes the report over `artifacts`, all there are of a programme, to `to`. Stages may be missing: it says which.

    Raises:
        KibanError: if a JSON file in an artifact cannot be read.
    """
    page = render("report.html.j2", _content(programme_name, artifacts), ("report.js",), images=True)
    write_atomic(to, page)
    return to


def _content(programme_name: str, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    by_kind = {artifact.kind: artifact for artifact in artifacts}
    sources = [artifact for artifact in artifacts if artifact.kind == "source"]
    return {
        "programme": programme_name,
        "contents": CONTENTS,
        "version": __version__,
        "made_at": max((artifact.manifest.made.at for artifact in artifacts), default=None),
        "hardware": sorted({artifact.manifest.made.hardware for artifact in artifacts}),
        "summary": summary(artifacts),
        "stages": [_stage(artifact) for artifact in artifacts],
        "missing": [kind.name for name, kind in KINDS.items() if name not in by_kind],
        "seconds": duration(sum(artifact.manifest.made.seconds for artifact in artifacts)),
        "corpus": corpus(by_kind.get("corpus"), sources),
        "tokenizer": tokenizer(by_kind.get("tokenizer"), by_kind.get("tokens")),
        "training": training(by_kind.get("model")),
        "evaluation": evaluation(by_kind.get("evaluation")),
        "robot": robot(by_kind.get("demonstrations"), by_kind.get("policy"), by_kind.get("rollout")),
        "milestones": milestones(by_kind.get("milestones")),
        "lineage": picture.draw(artifacts) if artifacts else None,
        "rights": rights(sources),
    }


def _stage(artifact: Artifact) -> dict[str, Any]:
    manifest, rights = artifact.manifest, artifact.rights
    return {
        "title": title(artifact),
        "peak": quantity(manifest.made.peak_bytes, "bytes"),
        "address": manifest.address,
        "inputs": sorted(manifest.inputs),
        "uses": uses(rights.uses),
        "residency": [residency(r) for r in sorted(rights.residency)],
        "expires": rights.expires,
        "obligations": [obligation(o) for o in sorted(rights.obligations)],
    }
