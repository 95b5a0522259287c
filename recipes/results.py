"""Prints what a finished programme gave, as Markdown.

    python recipes/results.py recipes/open-text > docs/results/open-text.md

Reads manifests, summaries and the training log; every figure in the page comes from them.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from kiban.artifacts.files import read_json
from kiban.artifacts.store import Artifact
from kiban.programme import graph, runner
from kiban.programme.settings import load

ROOT = Path(__file__).parent.parent


def main(folder: Path) -> None:
    programme = load(folder)
    steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
    unmade = [step.node.name for step in steps if step.artifact is None]
    if unmade:
        sys.exit(f"not made yet: {', '.join(unmade)}; kiban run {folder}")
    artifacts = {step.node.name: step.artifact for step in steps if step.artifact}
    last = max(artifacts.values(), key=lambda artifact: artifact.manifest.made.at)
    commit = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], text=True).strip()
    place = folder.absolute().relative_to(ROOT)
    print(f"# {programme.programme.name}\n")
    print(f"`kiban run {place}`, then `python recipes/results.py {place}`.")
    print(f"{last.manifest.made.hardware}; {last.manifest.made.at[:10]}; commit {commit}.\n")
    _stages(artifacts)
    _corpus(artifacts["corpus"])
    _figures("Tokens", artifacts["tokenizer"], artifacts["tokens"])
    _figures("Model", artifacts["model"])
    _figures("Evaluation", artifacts["evaluation"])
    for name in ("demonstrations", "policy", "rollout"):
        if name in artifacts:
            _figures(name.capitalize(), artifacts[name])
    if "milestones" in artifacts:
        print("## Milestones\n\n| milestone | verdict |\n|---|---|")
        for verdict in read_json(artifacts["milestones"].path / "verdicts.json"):
            print(f"| {verdict['id']} {verdict['title']} | {verdict['verdict']} |")


def _stages(artifacts: dict[str, Artifact]) -> None:
    print("## Stages\n\n| stage | seconds | peak memory (MB) |\n|---|---:|---:|")
    for name, artifact in artifacts.items():
        made = artifact.manifest.made
        print(f"| {name} | {made.seconds:.1f} | {made.peak_bytes / 1e6:.0f} |")
    total = sum(artifact.manifest.made.seconds for artifact in artifacts.values())
    print(f"| all | {total:.1f} | {max(a.manifest.made.peak_bytes for a in artifacts.values()) / 1e6:.0f} |\n")
    log = (artifacts["model"].path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    trained = json.loads(log[-1])["seconds"]
    print("A stage's seconds are those of the attempt that finished it; one that was interrupted took longer.")
    print(f"By its log, training took {trained:.0f} s over all attempts.\n")


def _corpus(corpus: Artifact) -> None:
    sources = read_json(corpus.path / "summary.json")["sources"]
    print("## Corpus\n")
    print("| source | documents in | kept | held back | characters in | kept |\n|---|---:|---:|---:|---:|---:|")
    columns = ("documents_in", "documents_kept", "documents_held_back", "characters_in", "characters_kept")
    for name, row in sources.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:,}" for column in columns) + " |")
    print("| all | " + " | ".join(f"{sum(row[c] for row in sources.values()):,}" for c in columns) + " |")
    for group, head in (("dropped", "dropped because"), ("masked", "masked")):
        print(f"\n| {head} | times |\n|---|---:|")
        totals: Counter[str] = Counter()
        for row in sources.values():
            totals.update(row[group])
        for name, count in totals.most_common():
            print(f"| {name} | {count:,} |")
    print()


def _figures(title: str, *artifacts: Artifact) -> None:
    print(f"## {title}\n\n| figure | value | 95 % interval | n |\n|---|---:|---|---:|")
    for artifact in artifacts:
        for name, metric in sorted(artifact.metrics.items()):
            interval = f"{metric.interval[0]:.4g} – {metric.interval[1]:.4g}" if metric.interval else ""
            print(f"| {name} ({metric.unit}) | {metric.value:,.6g} | {interval} | {metric.n or ''} |")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
