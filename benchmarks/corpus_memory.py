"""How much memory a corpus takes: all sources of `recipes/open-text` below `$KIBAN_DATA` (241 MB), once and repeated.

    python benchmarks/corpus_memory.py                      # once and ten times, serial: some five minutes
    python benchmarks/corpus_memory.py --sources wikipedia python --repeat 1 5

Each build is a process of its own; its peak is the kernel's (VmHWM), over reading, deciding and writing. A repetition
is the same files again under another name, so that its documents have other ids. Leaves a record in
`benchmarks/results/`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

BAR_GB = 1.5


def main() -> None:
    import record

    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--sources", nargs="*", help="all without it")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    args = parser.parse_args()
    builds = []
    for times in args.repeat:
        with tempfile.TemporaryDirectory(prefix="kiban-memory-") as folder:
            command = [sys.executable, __file__, "--child", folder, str(times), *(args.sources or [])]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(record.reason(done))
        builds.append({"repeat": times, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{times} times: {builds[-1]['peak_bytes'] / 1e9:.2f} GB, {builds[-1]['seconds']:.0f} s")
    figures: dict[str, Any] = {**record.circumstances(), "builds": builds, "bar_gb": BAR_GB}
    rows = [
        [
            str(b["repeat"]),
            f"{b['megacharacters']:.0f}",
            str(b["documents_in"]),
            str(b["documents_kept"]),
            f"{b['peak_bytes'] / 1e9:.2f}",
            f"{b['seconds']:.0f}",
            "yes" if b["peak_bytes"] < BAR_GB * 1e9 else "NO",
        ]
        for b in builds
    ]
    columns = ["times", "M characters in", "documents", "kept", "peak GB", "s", f"under {BAR_GB} GB"]
    lines = [*record.head("The corpus room: memory", figures), *record.table(columns, rows)]
    print(record.write("corpus_memory", figures, "\n".join(lines), args.results))


def child(folder: Path, times: int, chosen: list[str]) -> None:
    """Builds the corpus `times` over, and prints what it took."""
    from kiban.artifacts.memory import peak_bytes
    from kiban.artifacts.progress import Progress
    from kiban.artifacts.store import open_store
    from kiban.corpus.sources import source
    from kiban.corpus.stage import CorpusSettings, corpus
    from kiban.programme.runner import Node, make, plan
    from kiban.programme.settings import load, resolve

    programme = load(ROOT / "recipes" / "open-text")
    nodes, locations = [], {}
    for given in programme.sources:
        for number in range(times if not chosen or given.name in chosen else 0):
            name = f"{given.name}-{number}"
            locations[name] = str(resolve(given.path, programme.folder, name))
            nodes.append(
                Node(f"source.{name}", source, given.model_copy(update={"name": name, "location": locations[name]}), {})
            )
    settings = CorpusSettings(
        evaluation_data=f"{os.environ['KIBAN_DATA']}/eval", locations=locations, folder=str(programme.folder)
    )
    nodes.append(Node("corpus", corpus, settings, {"sources": tuple(node.name for node in nodes)}))
    store = open_store(str(folder), folder)
    made = make("memory", plan(nodes, store), store, Progress(quiet=True))[-1]
    said = {name.removeprefix("corpus."): metric.value for name, metric in made.metrics.items()}
    out = {
        "megacharacters": said["characters_in"] / 1e6,
        "documents_in": int(said["documents_in"]),
        "documents_kept": int(said["documents_kept"]),
        "seconds": made.manifest.made.seconds,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        main()
