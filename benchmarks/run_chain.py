"""One run of the stage `corpus` for `corpus.py`: reads a job, writes MB/s of processor time and how much was kept."""

import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import Artifact, open_store
from kiban.corpus.sources import SourceSettings, source
from kiban.corpus.stage import CorpusSettings, corpus
from kiban.programme.runner import Node, make, plan


def build(store: Path, sources: list[list[str]], recipe: str) -> Artifact:
    nodes = []
    for name, format, path in sources:
        terms = {"partner": "self", "licence": "public-domain", "uses": ["pretrain"]}
        settings = SourceSettings.model_validate(
            {"name": name, "format": format, "path": path, "location": path} | terms
        )
        nodes.append(Node(f"source.{name}", source, settings, {}))
    locations = {name: path for name, _, path in sources}
    settings = CorpusSettings.model_validate({"recipe": recipe, "locations": locations, "folder": str(store)})
    nodes.append(Node("corpus", corpus, settings, {"sources": tuple(node.name for node in nodes)}))
    opened = open_store(str(store), store)
    return make("benchmark", plan(nodes, opened), opened, Progress(quiet=True))[-1]


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory(dir=job["store"]) as folder:
        smallest = min(job["sources"], key=lambda source: Path(source[2]).stat().st_size)
        with suppress(KibanError):  # a strict recipe may leave nothing of it, which warms as well
            build(Path(folder) / "warm", [smallest], job["recipe"])
        start = time.process_time()
        made = build(Path(folder) / "store", job["sources"], job["recipe"])
        seconds = time.process_time() - start
        kept = {name: made.metrics[f"corpus.{name}"].value for name in ("documents_in", "documents_kept")}
    Path(job["out"]).write_text(json.dumps({"mb_per_s": job["megabytes"] / seconds, "seconds": seconds} | kept))


if __name__ == "__main__":
    main()
